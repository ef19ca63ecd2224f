// What OpenAI's client and ours expect of the stand-in for OpenAI.
import { is, ok, throws } from './tap.mjs';

const KEY = 'sk-test';
const SMALL = 'text-embedding-3-small';

const norm = (vector) => Math.hypot(...vector);
const close = (a, b) => a.length === b.length && a.every((one, index) => Math.abs(one - b[index]) < 1e-7);

// `strict`: a validating proxy is between; what it refuses itself cannot be tried.
export async function openaiChecks({ OpenAI, AzureOpenAI }, base, standIn, strict) {
  const client = new OpenAI({ apiKey: KEY, baseURL: base, maxRetries: 0 });
  const embed = (body, options) => client.embeddings.create({ model: SMALL, ...body }, options);
  const texts = ['How is a package installed?', 'Comment installer un paquet ?', 'كيف يتم تثبيت الحزمة؟'];

  // Without encoding_format the client asks for base64 and decodes it.
  const decoded = await embed({ input: texts });
  is(decoded.data.map((item) => item.index), [0, 1, 2], 'an item for each input, in order');
  is(decoded.data.map((item) => item.embedding.length), [1536, 1536, 1536], 'base64: 1536 numbers each');
  ok(decoded.data.every((item) => Math.abs(norm(item.embedding) - 1) < 1e-6), 'unit vectors');
  ok(decoded.usage.prompt_tokens === decoded.usage.total_tokens && decoded.usage.total_tokens > 0, 'usage');
  is([decoded.object, decoded.model], ['list', SMALL], 'object and model');

  const floats = await embed({ input: texts, encoding_format: 'float' });
  ok(floats.data.every((item, at) => close(item.embedding, decoded.data[at].embedding)), 'float: the same vectors');
  const one = await embed({ input: texts[1], encoding_format: 'float' });
  ok(close(one.data[0].embedding, floats.data[1].embedding), 'the same text alone: the same vector');
  ok(!close(floats.data[0].embedding, floats.data[1].embedding), 'another text: another vector');

  const short = await embed({ input: texts, dimensions: 256 });
  is(short.data[0].embedding.length, 256, 'dimensions');
  const odd = await embed({ input: texts, dimensions: 3, encoding_format: 'float' });
  ok(odd.data[0].embedding.length === 3 && Math.abs(norm(odd.data[0].embedding) - 1) < 1e-6, 'three dimensions');
  const large = await embed({ input: texts, model: 'text-embedding-3-large' });
  is(large.data[0].embedding.length, 3072, 'the large model');
  is((await embed({ input: [[1, 2, 3], [4]] })).data.length, 2, 'arrays of tokens');

  const { response, request_id: id } = await embed({ input: 'a' }).withResponse();
  ok(/^req_/.test(id ?? response.headers.get('x-request-id')), 'x-request-id');
  const models = await client.models.list();
  ok(models.data.some((model) => model.id === SMALL), 'models.list');
  is((await client.models.retrieve(SMALL)).object, 'model', 'models.retrieve');

  await standIn.settings({ shuffle: true });
  const shuffled = await embed({ input: texts, encoding_format: 'float' });
  const byIndex = [...shuffled.data].sort((a, b) => a.index - b.index);
  ok(byIndex.every((item, at) => close(item.embedding, floats.data[at].embedding)), 'shuffled: the index tells');
  await standIn.settings({ shuffle: false });

  // Errors, as the client's classes.
  const wrong = new OpenAI({ apiKey: 'sk-wrong-key', baseURL: base, maxRetries: 0 });
  await throws(
    () => wrong.embeddings.create({ model: SMALL, input: 'a' }),
    (error) => error instanceof OpenAI.AuthenticationError && error.code === 'invalid_api_key',
    'a wrong key: AuthenticationError',
  );
  await standIn.rules({ action: 'rate_limit', retry_after: 2 });
  await throws(
    () => embed({ input: 'a' }),
    (error) => error instanceof OpenAI.RateLimitError && error.headers.get('retry-after') === '2',
    '429: RateLimitError with Retry-After',
  );
  await standIn.rules({ action: 'quota' });
  await throws(
    () => embed({ input: 'a' }),
    (error) => error instanceof OpenAI.RateLimitError && error.code === 'insufficient_quota',
    'a spent quota: RateLimitError with its code',
  );
  await standIn.rules({ action: 'rate_limit', retry_after_ms: 20 });
  const patient = new OpenAI({ apiKey: KEY, baseURL: base, maxRetries: 1 });
  is((await patient.embeddings.create({ model: SMALL, input: 'a' })).data.length, 1, 'the client waits and tries again');
  await throws(
    () => embed({ input: ['a', ''] }),
    (error) => error instanceof OpenAI.BadRequestError && error.type === 'invalid_request_error',
    'an empty input: BadRequestError',
  );
  await throws(
    () => embed({ input: 'word '.repeat(8200) }),
    (error) => error instanceof OpenAI.BadRequestError && /8192 tokens/.test(error.message),
    'an input too long: BadRequestError',
  );
  await throws(
    () => embed({ input: Array(60).fill('word '.repeat(4500)) }),
    (error) => error instanceof OpenAI.BadRequestError && error.code === 'max_tokens_per_request',
    'too many tokens in a request: BadRequestError',
  );
  if (strict) return;

  // What the description does not foresee, and so no proxy that goes by it lets through.
  await throws(
    () => embed({ input: 'a', model: 'no-such-model' }),
    (error) => error instanceof OpenAI.NotFoundError && error.code === 'model_not_found',
    'an unknown model: NotFoundError',
  );
  await throws(
    () => embed({ input: Array(2049).fill('a') }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === 'input',
    'too many inputs: BadRequestError',
  );
  await throws(
    () => embed({ input: 'a', instruction: 'b' }),
    (error) => error instanceof OpenAI.BadRequestError && error.param === 'instruction',
    'an unknown field: BadRequestError',
  );
  await standIn.rules({ action: 'status', status: 500 });
  await throws(() => embed({ input: 'a' }), (error) => error instanceof OpenAI.InternalServerError, '500');
  await standIn.rules({ action: 'cut' });
  await throws(() => embed({ input: 'a' }), (error) => error instanceof OpenAI.APIConnectionError, 'a cut connection');
  await standIn.rules({ action: 'hang' });
  await throws(
    () => embed({ input: 'a' }, { timeout: 300 }),
    (error) => error instanceof OpenAI.APIConnectionTimeoutError,
    'no answer: the client gives up',
  );
  await standIn.rules({ action: 'revoke', skip: 1, times: 0 });
  await embed({ input: 'a' });
  await throws(() => embed({ input: 'a' }), (error) => error instanceof OpenAI.AuthenticationError, 'a revoked key');
  await standIn.rules();

  await standIn.settings({ requests_per_minute: 600, tokens_per_minute: 100000 });
  const limited = await embed({ input: 'a' }).withResponse();
  is(limited.response.headers.get('x-ratelimit-limit-requests'), '600', 'x-ratelimit-* headers');
  ok(Number(limited.response.headers.get('x-ratelimit-remaining-tokens')) < 100000, 'they count');
  await standIn.settings({ requests_per_minute: 0, tokens_per_minute: 0 });

  const azure = (apiKey) =>
    new AzureOpenAI({ apiKey, endpoint: standIn.endpoint, apiVersion: '2024-10-21', deployment: SMALL, maxRetries: 0 });
  is((await azure(KEY).embeddings.create({ model: SMALL, input: texts })).data.length, 3, "Azure's client");
  await throws(
    () => azure('wrong').embeddings.create({ model: SMALL, input: 'a' }),
    (error) => error.status === 401,
    "Azure's client with a wrong key",
  );
}
