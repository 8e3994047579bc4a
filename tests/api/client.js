// SPDX-License-Identifier: Apache-2.0
// Drives the unmodified official Node client; test_openai_node.py reads the JSON that it prints.
'use strict';

const OpenAI = require('openai');

const [baseURL, step] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'dummy', maxRetries: 0 });
const request = { model: 'smollm2-135m', prompt: 'The capital of France is', max_tokens: 12, temperature: 0 };

const steps = {
  async complete() {
    const { data, request_id: requestId } = await client.completions.create(request).withResponse();
    return { data, requestId };
  },
  async stream() {
    const chunks = [];
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await client.completions.create({ ...request, ...options })) {
      chunks.push(chunk);
    }
    return chunks;
  },
  async leave() {
    const long = { ...request, max_tokens: 4000, ignore_eos: true, stream: true };
    for await (const chunk of await client.completions.create(long)) {
      return chunk; // breaking out aborts the HTTP request
    }
    return null;
  },
  async models() {
    const ids = [];
    for await (const model of client.models.list()) {
      ids.push(model.id);
    }
    return ids;
  },
  async error() {
    try {
      await client.completions.create({ ...request, temperature: 3 });
    } catch (error) {
      const { status, code, param, type, requestID } = error;
      return { name: error.constructor.name, status, code, param, type, requestID };
    }
    return null;
  },
};

steps[step]().then(
  (result) => process.stdout.write(JSON.stringify(result)),
  (error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exitCode = 1;
  },
);
