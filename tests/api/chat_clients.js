// SPDX-License-Identifier: Apache-2.0
// Drives unmodified Node chat clients; test_chat_clients_node.py reads the JSON that it prints.
'use strict';

const [baseURL, step] = process.argv.slice(2);
const model = 'smollm2-135m';
const messages = [
  { role: 'system', content: 'Answer with one word.' },
  { role: 'user', content: 'What is the capital of France?' },
];
const request = { model, messages, max_completion_tokens: 12, temperature: 0 };

function openai() {
  const OpenAI = require('openai');
  return new OpenAI({ baseURL, apiKey: 'dummy', maxRetries: 0 });
}

function langchain(options = {}) {
  const { ChatOpenAI } = require('@langchain/openai');
  return new ChatOpenAI({
    model, temperature: 0, maxTokens: 12, apiKey: 'dummy', maxRetries: 0, configuration: { baseURL }, ...options,
  });
}

function vercel() {
  const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
  return createOpenAICompatible({ name: 'lacuna', baseURL, apiKey: 'dummy', includeUsage: true });
}

function described(error) {
  const { status, statusCode, code, param, message } = error;
  return { name: error.name, kind: error.constructor.name, status: status ?? statusCode, code, param, message };
}

async function failing(ask) {
  try {
    await ask();
  } catch (error) {
    return described(error);
  }
  return null;
}

const steps = {
  async openai_whole() {
    return openai().chat.completions.create(request);
  },
  async openai_stream() {
    const chunks = [];
    const options = { stream: true, stream_options: { include_usage: true } };
    for await (const chunk of await openai().chat.completions.create({ ...request, ...options })) {
      chunks.push(chunk);
    }
    return chunks;
  },
  async openai_accumulated() {
    return openai().chat.completions.stream(request).finalChatCompletion();
  },
  async openai_logprobs() {
    return openai().chat.completions.create({ ...request, logprobs: true, top_logprobs: 3 });
  },
  async openai_error() {
    return failing(() => openai().chat.completions.create({ ...request, messages: [] }));
  },
  async langchain_whole() {
    const answer = await langchain().invoke(messages);
    return { content: answer.content, usage: answer.usage_metadata, metadata: answer.response_metadata };
  },
  async langchain_stream() {
    let all;
    let n = 0;
    for await (const chunk of await langchain({ streaming: true }).stream(messages)) {
      all = all ? all.concat(chunk) : chunk;
      n += 1;
    }
    return { content: all.content, usage: all.usage_metadata, n };
  },
  async langchain_error() {
    return failing(() => langchain({ temperature: 7 }).invoke(messages));
  },
  async vercel_whole() {
    const { generateText } = require('ai');
    const { text, usage, finishReason } = await generateText({
      model: vercel()(model), messages, temperature: 0, maxOutputTokens: 12, maxRetries: 0,
    });
    return { text, usage, finishReason };
  },
  async vercel_stream() {
    const { streamText } = require('ai');
    const result = streamText({
      model: vercel()(model), messages, temperature: 0, maxOutputTokens: 12, maxRetries: 0,
    });
    const parts = [];
    for await (const part of result.textStream) {
      parts.push(part);
    }
    return { text: parts.join(''), n: parts.length, usage: await result.usage, finishReason: await result.finishReason };
  },
  async vercel_completion() {
    const { generateText } = require('ai');
    const { text, usage } = await generateText({
      model: vercel().completionModel(model), prompt: 'The capital of France is', temperature: 0, maxOutputTokens: 12,
      maxRetries: 0,
    });
    return { text, usage };
  },
  async vercel_error() {
    const { generateText } = require('ai');
    return failing(() => generateText({ model: vercel()('other'), messages, maxRetries: 0 }));
  },
};

steps[step]().then(
  (result) => process.stdout.write(JSON.stringify(result)),
  (error) => {
    process.stderr.write(`${error.stack}\n`);
    process.exitCode = 1;
  },
);
