// Whether the stand-ins for OpenAI and Pinecone speak the real protocols: the services' own clients work
// against them, and where the official descriptions are at hand, a proxy that goes by them lets every
// request and answer pass. Prints TAP.
//
//   contract.mjs MODULES [DESCRIPTIONS]
//
// MODULES: the folder node_modules of package.json; DESCRIPTIONS: a folder with openai-embeddings.json and
// pinecone-data-2025-10.yaml (from openai/openai-openapi and pinecone-io/pinecone-api).
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import path from 'node:path';

import { openaiChecks } from './openai.mjs';
import { pineconeChecks } from './pinecone.mjs';
import { startPrism, startStandIn, stopAll } from './program.mjs';
import { done, group, ok, skip } from './tap.mjs';

const [modules, descriptions] = process.argv.slice(2).map((one) => path.resolve(one));
const require = createRequire(path.join(modules, 'x'));
const openai = require('openai');
const pinecone = require('@pinecone-database/pinecone');

const SERVICES = [
  {
    name: 'OpenAI',
    checks: (base, standIn, strict) => openaiChecks(openai, base, standIn, strict),
    script: 'openai.py',
    settings: {},
    base: '/v1',
    description: 'openai-embeddings.json',
    // Proof that the proxy does look: it must object to these.
    wrongAnswer: { rule: { action: 'status', status: 200, body: '{"object":"list","data":[{}]}' } },
    probe: (base) =>
      fetch(`${base}/embeddings`, {
        method: 'POST',
        headers: { authorization: 'Bearer sk-test', 'content-type': 'application/json' },
        body: JSON.stringify({ model: 'text-embedding-3-small', input: ['a'] }),
      }),
    wrongRequest: (base) =>
      fetch(`${base}/embeddings`, {
        method: 'POST',
        headers: { authorization: 'Bearer sk-test', 'content-type': 'application/json' },
        body: JSON.stringify({ model: 'text-embedding-3-small', input: ['a'], truncate: true }),
      }),
  },
  {
    name: 'Pinecone',
    checks: (base, standIn, strict) =>
      pineconeChecks({ Pinecone: pinecone.Pinecone, Errors: pinecone.Errors }, base, standIn, strict),
    script: 'pinecone.py',
    settings: { dimension: 8 },
    base: '',
    description: 'pinecone-data-2025-10.yaml',
    wrongAnswer: { rule: { action: 'status', status: 200, body: '{"totalVectorCount":"many"}' } },
    probe: (base) =>
      fetch(`${base}/describe_index_stats`, {
        method: 'POST',
        headers: { 'api-key': 'pc-test', 'x-pinecone-api-version': '2025-10', 'content-type': 'application/json' },
        body: '{}',
      }),
    wrongRequest: (base) =>
      fetch(`${base}/vectors/upsert`, {
        method: 'POST',
        headers: { 'api-key': 'pc-test', 'x-pinecone-api-version': '2025-10', 'content-type': 'application/json' },
        body: JSON.stringify({ vectors: [{ id: '', values: [1], text: 'x' }] }),
      }),
  },
];

async function check(service) {
  const standIn = await startStandIn(service.script, service.settings);
  await group(`${service.name}'s client`, () => service.checks(standIn.endpoint + service.base, standIn, false));
}

async function checkThroughPrism(service) {
  const description = path.join(descriptions, service.description);
  const standIn = await startStandIn(service.script, service.settings);
  const proxy = await startPrism(modules, description, standIn.endpoint + service.base);
  await group(`${service.name}'s client through Prism`, () => service.checks(proxy, standIn, true));
  await group(`Prism before ${service.name}`, async () => {
    ok((await service.probe(proxy)).status === 200, 'Prism lets a good request pass');
    const refused = await service.wrongRequest(proxy);
    ok(refused.status >= 400 && /prism/i.test(await refused.text()), 'Prism refuses a wrong request');
    await standIn.rules(service.wrongAnswer.rule);
    const spoilt = await service.probe(proxy);
    ok(spoilt.status >= 500 && /prism/i.test(await spoilt.text()), 'Prism refuses a wrong answer');
  });
}

for (const service of SERVICES) {
  await group(service.name, () => check(service));
  if (descriptions && existsSync(path.join(descriptions, service.description))) {
    await group(service.name, () => checkThroughPrism(service));
  } else {
    skip(`${service.name} through Prism`, `no ${service.description} in BACMR_CONTRACTS`);
  }
}
const good = done();
stopAll();
process.exit(good ? 0 : 1);
