// What Pinecone's client expects of the stand-in for Pinecone.
import { is, ok, throws } from './tap.mjs';

const KEY = 'pc-test';

const vector = (seed) => Array.from({ length: 8 }, (_, at) => Math.fround(Math.sin(seed * 8 + at + 1)));
const close = (a, b) => a.length === b.length && a.every((one, index) => Math.abs(one - b[index]) < 1e-6);

export async function pineconeChecks({ Pinecone, Errors }, host, standIn, strict) {
  const index = new Pinecone({ apiKey: KEY, maxRetries: 0 }).index({ host });
  // The validating proxy compares paths as they come: names that need escapes are tried without it.
  const name = strict ? 'handbook-v2' : 'fr/"manuel" دليل';
  const space = index.namespace(name);
  const record = (seed, metadata) => ({ id: `chunk-${String(seed).padStart(3, '0')}`, values: vector(seed), metadata });
  const records = Array.from({ length: 150 }, (_, seed) =>
    record(seed, { lang: 'fr', page: seed, draft: seed % 2 === 0, tags: ['a', 'ب'] }),
  );

  await space.upsert({ records: records.slice(0, 100) });
  await space.upsert({ records: records.slice(100) });
  const { namespaces, dimension, totalRecordCount } = await index.describeIndexStats();
  is([dimension, totalRecordCount, namespaces[name].recordCount], [8, 150, 150], 'upsert, describeIndexStats');
  is(Number((await index.describeNamespace(name)).recordCount), 150, 'describeNamespace');
  ok((await index.listNamespaces()).namespaces.some((one) => one.name === name), 'listNamespaces');

  const ids = [];
  let paginationToken;
  let pages = 0;
  do {
    const page = await space.listPaginated({ limit: 60, paginationToken });
    ids.push(...page.vectors.map((one) => one.id));
    paginationToken = page.pagination?.next;
    pages += 1;
  } while (paginationToken);
  is([pages, ids], [3, records.map((one) => one.id)], 'listPaginated: every id, in order, in pages');
  is((await space.listPaginated({ prefix: 'chunk-14' })).vectors.length, 10, 'by prefix');

  const fetched = await space.fetch({ ids: ['chunk-007', 'chunk-149', 'none'] });
  is(Object.keys(fetched.records).sort(), ['chunk-007', 'chunk-149'], 'fetch: what is there');
  ok(close(fetched.records['chunk-007'].values, vector(7)), 'its values');
  is(fetched.records['chunk-007'].metadata, records[7].metadata, 'its metadata');

  const found = await space.query({ vector: vector(42), topK: 3, includeMetadata: true });
  is(found.matches[0].id, 'chunk-042', 'query: the nearest first');
  ok(Math.abs(found.matches[0].score - 1) < 1e-6 && found.matches[1].score <= found.matches[0].score, 'scores');
  is(found.matches.map((one) => one.metadata.page)[0], 42, 'with metadata');
  is((await space.query({ id: 'chunk-042', topK: 1 })).matches[0].id, 'chunk-042', 'query by id');

  await space.upsert({ records: [record(7, { lang: 'ar' })] });
  is((await space.fetch({ ids: ['chunk-007'] })).records['chunk-007'].metadata, { lang: 'ar' }, 'upsert replaces');
  await space.deleteMany({ ids: ['chunk-000', 'chunk-001'] });
  is((await index.describeNamespace(name)).recordCount, 148, 'deleteMany');

  await index.namespace('').upsert({ records: [record(1)] });
  is((await index.describeIndexStats()).namespaces.__default__.recordCount, 1, 'the default namespace');

  if (!strict) {
    const wrong = new Pinecone({ apiKey: 'wrong', maxRetries: 0 }).index({ host });
    await throws(
      () => wrong.describeIndexStats(),
      (error) => error instanceof Errors.PineconeAuthorizationError,
      'a wrong key: PineconeAuthorizationError',
    );
    const refused = (what, one, pattern) =>
      throws(
        () => space.upsert({ records: [{ ...record(1), ...one }] }),
        (error) => error instanceof Errors.PineconeBadRequestError && pattern.test(error.message),
        `${what}: PineconeBadRequestError`,
      );
    await refused('a wrong dimension', { values: [1, 2, 3] }, /dimension 3/);
    await refused('a zero vector', { values: Array(8).fill(0) }, /non-zero/);
    await refused('nested metadata', { metadata: { a: { b: 1 } } }, /Metadata value must be/);
    await refused('a list of numbers in metadata', { metadata: { a: [1] } }, /Metadata value must be/);
    await refused('null in metadata', { metadata: { a: null } }, /Metadata value must be/);
    await refused('metadata too large', { metadata: { a: 'x'.repeat(41000) } }, /40960/);
    await refused('an id too long', { id: 'x'.repeat(513) }, /512/);
    await throws(
      () => space.upsert({ records: Array.from({ length: 1001 }, (_, seed) => record(seed)) }),
      (error) => error instanceof Errors.PineconeBadRequestError,
      '1001 vectors: PineconeBadRequestError',
    );
    await standIn.rules({ action: 'rate_limit', retry_after: 1 });
    await throws(
      () => index.describeIndexStats(),
      (error) => error.name === 'PineconeUnmappedHttpError' && /429/.test(error.message),
      '429 reaches the caller',
    );
    await standIn.rules({ action: 'lose', match: { kind: 'upsert' } });
    await space.upsert({ records: [record(900)] });
    is(Object.keys((await space.fetch({ ids: ['chunk-900'] })).records), [], 'a batch lost in silence');
    await standIn.settings({ count_lag_ms: 400 });
    await space.upsert({ records: [record(901)] });
    ok(Number((await index.describeNamespace(name)).recordCount) < 149, 'a count that lags');
    is(Object.keys((await space.fetch({ ids: ['chunk-901'] })).records), ['chunk-901'], 'behind what is there');
    await new Promise((resolve) => setTimeout(resolve, 500));
    is(Number((await index.describeNamespace(name)).recordCount), 149, 'and catches up');
    await standIn.settings({ count_lag_ms: 0 });
    // int64 comes as strings from some deployments: the client takes both.
    await standIn.settings({ int64_as_string: true });
    is(Number((await index.describeIndexStats()).totalRecordCount), 150, 'numbers of 64 bits as strings');
    await standIn.settings({ int64_as_string: false });
  }

  await index.deleteNamespace(name);
  ok(!(name in (await index.describeIndexStats()).namespaces), 'deleteNamespace');
  if (!strict) {
    await throws(
      () => index.describeNamespace(name),
      (error) => error instanceof Errors.PineconeNotFoundError,
      'gone: PineconeNotFoundError',
    );
  }
}
