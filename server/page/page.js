// SPDX-License-Identifier: Apache-2.0
// The page at /: reads /metrics once a second while it is looked at, and streams a completion.
// What comes from the server is only ever set as text.
'use strict';
(() => {
  const POLL_MS = 1000;
  const N_SAMPLES = 90; // of a sparkline
  const WINDOW = 30; // samples that quantiles and shares are taken over
  const KEY = 'lacuna-api-key';
  const SVG = 'http://www.w3.org/2000/svg';
  const $ = (id) => document.getElementById(id);

  /* ---- numbers as people read them ---- */

  const show = (id, text) => { $(id).textContent = text; };
  const count = (n) => n.toLocaleString('en');
  const rate = (n) => (n >= 100 ? count(Math.round(n)) : n.toFixed(n > 0 ? 1 : 0));
  const share = (x) => (x === null ? '–' : `${(x * 100).toFixed(x > 0 && x < 0.1 ? 1 : 0)} %`);

  function seconds(s) {
    if (s === null) return '–';
    if (s < 1) return `${s < 0.1 ? (s * 1000).toFixed(1) : Math.round(s * 1000)} ms`;
    return `${s < 10 ? s.toFixed(2) : s.toFixed(1)} s`;
  }

  function bytes(n) {
    if (n === undefined) return '–';
    const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
    let i = 0;
    for (; n >= 1024 && i + 1 < units.length; i++) n /= 1024;
    return `${n.toFixed(i > 2 ? 2 : 0)} ${units[i]}`;
  }

  /* ---- /metrics ---- */

  const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
  const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
  const WANTED = /^(lacuna_(requests_|kv_|prefix_|ready|draining|model_load|build_info|time_to_first|inter_token|generation_|prefill_|memory_alloc|expert)|process_resident)/;

  function parse(text) {
    const found = new Map();
    for (const line of text.split('\n')) {
      const m = WANTED.test(line) && LINE.exec(line);
      if (!m) continue;
      const labels = {};
      for (const [, name, value] of (m[2] || '').matchAll(LABEL)) {
        labels[name] = value.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
      }
      if (!found.has(m[1])) found.set(m[1], []);
      found.get(m[1]).push({ labels, value: Number(m[3]) });
    }
    return found;
  }

  const one = (found, name, state) => found.get(name)
    ?.find(({ labels }) => state === undefined || labels.state === state)?.value;

  function histogram(found, name) {
    return (found.get(`${name}_bucket`) || []).map(({ labels, value }) => ({
      bound: labels.le === '+Inf' ? Infinity : Number(labels.le), value,
    }));
  }

  // Values by the label "layer"; they come in its order.
  const byLayer = (found, name) => (found.get(name) || []).map(({ value }) => value);

  function expertsOf(found) {
    return {
      all: one(found, 'lacuna_experts'),
      slots: one(found, 'lacuna_expert_cache_slots'),
      hits: one(found, 'lacuna_expert_cache_hits_total'),
      missed: one(found, 'lacuna_expert_cache_misses_total') + one(found, 'lacuna_expert_cache_foreseen_total'),
      read: one(found, 'lacuna_expert_read_bytes_total'),
      stall: one(found, 'lacuna_expert_stall_seconds_total'),
      resident: byLayer(found, 'lacuna_expert_layer_resident'),
      layerHits: byLayer(found, 'lacuna_expert_layer_hits_total'),
      layerMissed: byLayer(found, 'lacuna_expert_layer_misses_total'),
    };
  }

  function sampleOf(found) {
    return {
      at: performance.now() / 1000,
      running: one(found, 'lacuna_requests_running'),
      waiting: one(found, 'lacuna_requests_waiting'),
      generated: one(found, 'lacuna_generation_tokens_total'),
      prompts: one(found, 'lacuna_prefill_tokens_total'),
      queries: one(found, 'lacuna_prefix_cache_queries_total'),
      hits: one(found, 'lacuna_prefix_cache_hits_total'),
      memory: one(found, 'process_resident_memory_bytes'),
      allocated: one(found, 'lacuna_memory_allocated_bytes'),
      used: one(found, 'lacuna_kv_cache_pages', 'used'),
      cached: one(found, 'lacuna_kv_cache_pages', 'cached'),
      free: one(found, 'lacuna_kv_cache_pages', 'free'),
      ttft: histogram(found, 'lacuna_time_to_first_token_seconds'),
      itl: histogram(found, 'lacuna_inter_token_latency_seconds'),
      experts: expertsOf(found),
    };
  }

  /* ---- from two moments to what happened between them ---- */

  function perSecond(a, b, field) {
    return b.at > a.at ? Math.max(0, (b[field] - a[field]) / (b.at - a.at)) : 0;
  }

  // Linear within a bucket, as Prometheus does it; null if nothing was observed.
  function quantile(a, b, field, q) {
    const total = b[field].at(-1).value - a[field].at(-1).value;
    if (!(total > 0)) return null;
    let below = 0;
    let low = 0;
    for (let i = 0; i < b[field].length; i++) {
      const { bound } = b[field][i];
      const n = b[field][i].value - a[field][i].value;
      if (n >= q * total) {
        if (bound === Infinity) return low;
        return low + (bound - low) * ((q * total - below) / (n - below));
      }
      below = n;
      low = bound;
    }
    return low;
  }

  const hitShare = (a, b) => {
    const asked = b.queries - a.queries;
    return asked > 0 ? (b.hits - a.hits) / asked : null;
  };

  /* ---- sparklines ---- */

  const history = {};

  function element(name, parent, className) {
    const e = document.createElementNS(SVG, name);
    e.setAttribute('class', className);
    return parent.appendChild(e);
  }

  // One path per stretch without gaps; a lone value is a short dash.
  function paths(values, top) {
    const height = (v) => (28 - 26 * (v / top)).toFixed(2);
    let line = '';
    let area = '';
    let from = -1;
    for (let i = 0; i <= values.length; i++) {
      const is = i < values.length && values[i] !== null;
      if (is && from < 0) from = i;
      if (is || from < 0) continue;
      const points = values.slice(from, i).map((v, j) => `${from + j} ${height(v)}`);
      if (points.length === 1) points.push(`${from + 0.6} ${height(values[from])}`);
      line += `M${points.join('L')}`;
      area += `M${from} 28L${points.join('L')}L${i - 1} 28Z`;
      from = -1;
    }
    return { line, area };
  }

  function spark(name, value) {
    const values = history[name] ||= Array(N_SAMPLES).fill(null);
    values.push(value);
    values.shift();
    const svg = $(`spark-${name}`);
    if (!svg.firstChild) {
      svg.setAttribute('viewBox', `0 0 ${N_SAMPLES - 1} 30`);
      svg.setAttribute('preserveAspectRatio', 'none');
      element('path', svg, 'area');
      element('path', svg, 'line');
    }
    const { line, area } = paths(values, Math.max(...values, 1e-9));
    svg.children[0].setAttribute('d', area);
    svg.children[1].setAttribute('d', line);
  }

  /* ---- showing a sample ---- */

  const samples = [];

  function showRates(a, b) {
    show('running', count(b.running));
    show('waiting', count(b.waiting));
    show('decode', rate(perSecond(a, b, 'generated')));
    show('prefill', rate(perSecond(a, b, 'prompts')));
    spark('running', b.running);
    spark('decode', perSecond(a, b, 'generated'));
  }

  function showTimes(a, b) {
    for (const name of ['ttft', 'itl']) {
      const median = quantile(a, b, name, 0.5);
      show(`${name}50`, seconds(median));
      show(`${name}95`, seconds(quantile(a, b, name, 0.95)));
      spark(name, median);
    }
  }

  function showPages(b) {
    const all = b.used + b.cached + b.free;
    show('pages-used', count(b.used));
    show('pages', count(all));
    show('pages-cached', count(b.cached));
    show('pages-free', count(b.free));
    const [, used, cached] = $('bar').children;
    used.setAttribute('width', all ? (100 * b.used) / all : 0);
    cached.setAttribute('x', all ? (100 * b.used) / all : 0);
    cached.setAttribute('width', all ? (100 * b.cached) / all : 0);
  }

  function showShares(a, b) {
    const recent = hitShare(a, b);
    show('hits', share(recent));
    show('hits-total', share(hitShare({ queries: 0, hits: 0 }, b)));
    spark('hits', recent);
    show('memory', bytes(b.memory));
    show('allocated', bytes(b.allocated));
    spark('memory', b.memory);
  }

  const part = (hits, missed) => (hits + missed > 0 ? hits / (hits + missed) : null);

  // Of layer l: how high its two bars are, of 1.
  function layerBars(a, b, l) {
    const perLayer = b.all / b.resident.length;
    const hits = b.layerHits[l] - (a.layerHits[l] || 0);
    const missed = b.layerMissed[l] - (a.layerMissed[l] || 0);
    return { track: 1, resident: Math.min(1, b.resident[l] / perLayer), hits: part(hits, missed) ?? 0 };
  }

  function drawLayers(a, b) {
    const svg = $('layers');
    const n = b.resident.length;
    svg.setAttribute('viewBox', `0 0 ${n} 1`);
    while (svg.children.length < 3 * n) element('rect', svg, ['track', 'resident', 'hits'][svg.children.length % 3]);
    for (let l = 0; l < n; l++) {
      Object.entries(layerBars(a, b, l)).forEach(([name, height], i) => {
        const [x, width] = name === 'hits' ? [l + 0.3, 0.3] : [l + 0.1, 0.7];
        Object.entries({ x, width, height, y: 1 - height })
          .forEach(([key, value]) => svg.children[3 * l + i].setAttribute(key, value));
      });
    }
  }

  function showExperts(a, b) {
    $('experts-card').hidden = !b.experts.slots;
    if (!b.experts.slots) return;
    const time = b.at - a.at;
    const per = (field) => (time > 0 ? (b.experts[field] - a.experts[field]) / time : null);
    show('expert-hits', share(part(b.experts.hits - a.experts.hits, b.experts.missed - a.experts.missed)));
    show('expert-slots', count(b.experts.slots));
    show('experts', count(b.experts.all));
    show('expert-read', per('read') === null ? '–' : bytes(per('read')));
    show('expert-stall', share(per('stall')));
    drawLayers(a.experts, b.experts);
  }

  function showState(found) {
    const is = (name) => one(found, name) > 0;
    if (is('lacuna_draining')) setState('stopping', 'warn');
    else if (is('lacuna_ready')) setState('ready', 'good');
    else if (is('lacuna_model_load_seconds')) setState('not ready', 'bad');
    else setState('loading', 'warn');
    const { labels } = found.get('lacuna_build_info')[0];
    show('build', `lacuna ${labels.version} ${labels.commit} ${labels.cpu_isa}`);
    show('model', found.get('lacuna_requests_running')[0].labels.model_name);
  }

  function setState(text, kind) {
    if ($('state').textContent !== text) show('state', text); // else it would be read out each second
    $('state').className = `pill ${kind}`;
  }

  function take(text) {
    const found = parse(text);
    const now = sampleOf(found);
    const before = samples.at(-1);
    if (before && now.generated < before.generated) samples.length = 0; // the server is another one
    samples.push(now);
    if (samples.length > WINDOW) samples.shift();
    showState(found);
    showRates(samples.at(-2) || now, now);
    showTimes(samples[0], now);
    showPages(now);
    showShares(samples[0], now);
    showExperts(samples[0], now);
  }

  /* ---- talking to the server ---- */

  const key = () => sessionStorage.getItem(KEY);

  function request(path, options = {}) {
    const headers = { ...options.headers };
    if (key()) headers.Authorization = `Bearer ${key()}`;
    return fetch(path, { ...options, headers, cache: 'no-store', credentials: 'omit' });
  }

  function askForKey() {
    show('key-error', key() ? 'This key is not known to the server.' : '');
    sessionStorage.removeItem(KEY);
    $('forget').hidden = true;
    if (!$('key-form').hidden) return;
    $('key-form').hidden = false;
    $('key').focus();
  }

  function keyIsGood() {
    $('key-form').hidden = true;
    $('forget').hidden = !key();
  }

  async function poll() {
    const answer = await request('metrics');
    const text = await answer.text();
    $('elsewhere').hidden = answer.status !== 404;
    $('numbers').hidden = answer.status !== 200;
    if (answer.status === 401) {
      setState('key needed', 'warn');
      askForKey();
    } else if (answer.status === 404) {
      setState('connected', 'good');
    } else if (answer.status === 200) {
      keyIsGood();
      take(text);
    } else {
      setState(`error ${answer.status}`, 'bad');
    }
  }

  let timer = 0;

  async function pollAgain() {
    clearTimeout(timer);
    timer = 0;
    try {
      await poll();
    } catch {
      setState('unreachable', 'bad');
    }
    const waitsForKey = !$('key-form').hidden;
    if (!document.hidden && !waitsForKey) timer = setTimeout(pollAgain, POLL_MS);
  }

  /* ---- a completion ---- */

  let running = null; // AbortController

  // The data of each event of a stream, as it comes.
  async function* events(body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = '';
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split('\n\n');
      rest = parts.pop();
      for (const part of parts) {
        if (part.startsWith('data: ')) yield part.slice('data: '.length);
      }
    }
  }

  function wanted() {
    return {
      prompt: $('prompt').value,
      max_tokens: $('max-tokens').valueAsNumber,
      temperature: $('temperature').valueAsNumber,
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    };
  }

  function describe(run, ending) {
    const parts = [ending];
    if (run.usage) {
      const cached = run.usage.prompt_tokens_details?.cached_tokens;
      parts.push(`${count(run.usage.prompt_tokens)} prompt tokens${cached ? ` (${count(cached)} cached)` : ''}`);
      parts.push(`${count(run.usage.completion_tokens)} generated`);
    }
    if (run.firstAt) parts.push(`first after ${seconds((run.firstAt - run.startedAt) / 1000)}`);
    const n = run.usage ? run.usage.completion_tokens - 1 : 0;
    if (n > 0 && run.lastAt > run.firstAt) parts.push(`${rate((n * 1000) / (run.lastAt - run.firstAt))} tokens/s`);
    return parts.join(' · ');
  }

  function takeChunk(run, chunk) {
    if (chunk.error) throw new Error(chunk.error.message);
    run.usage = chunk.usage || run.usage;
    const [choice] = chunk.choices;
    if (!choice) return;
    run.lastAt = performance.now();
    if (!run.firstAt) {
      run.firstAt = run.lastAt;
      show('result', 'generating');
    }
    run.finish = choice.finish_reason || run.finish;
    const box = $('answer');
    const follows = box.scrollTop + box.clientHeight > box.scrollHeight - 8;
    run.text.appendData(choice.text);
    if (follows) box.scrollTop = box.scrollHeight;
  }

  async function stream(run) {
    const answer = await request('v1/completions', {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(wanted()),
      signal: running.signal,
    });
    if (answer.status === 401) askForKey();
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const data of events(answer.body)) {
      if (data !== '[DONE]') takeChunk(run, JSON.parse(data));
    }
  }

  function setRunning(is) {
    $('run').disabled = is;
    $('stop').disabled = !is;
    $('answer').setAttribute('aria-busy', is);
  }

  async function complete() {
    if (running) return;
    const run = { startedAt: performance.now(), text: new Text(), finish: 'ended early' };
    running = new AbortController();
    $('answer').replaceChildren(run.text);
    show('result', 'waiting for the first token');
    setRunning(true);
    try {
      await stream(run);
      show('result', describe(run, run.finish));
    } catch (error) {
      show('result', describe(run, error.name === 'AbortError' ? 'stopped' : `error: ${error.message}`));
    }
    running = null;
    setRunning(false);
  }

  /* ---- what people do ---- */

  $('key-form').addEventListener('submit', (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, $('key').value);
    $('key').value = '';
    $('key-form').hidden = true;
    pollAgain();
  });
  $('forget').addEventListener('click', () => {
    sessionStorage.removeItem(KEY);
    pollAgain();
  });
  $('prompt-form').addEventListener('submit', (event) => {
    event.preventDefault();
    complete();
  });
  $('prompt').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) $('prompt-form').requestSubmit();
  });
  document.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') running?.abort();
  });
  $('stop').addEventListener('click', () => running?.abort());
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) pollAgain();
  });
  pollAgain();
})();
