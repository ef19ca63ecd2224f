// Test Anything Protocol, as much of it as the checks need.
import { isDeepStrictEqual } from 'node:util';

let tests = 0;
let failures = 0;

export function ok(good, name, detail) {
  tests += 1;
  if (!good) failures += 1;
  console.log(`${good ? 'ok' : 'not ok'} ${tests} - ${name}`);
  if (!good && detail !== undefined) console.log(String(detail).replace(/^/gm, '# '));
  return good;
}

export function is(got, wanted, name) {
  return ok(isDeepStrictEqual(got, wanted), name, `got ${JSON.stringify(got)}, not ${JSON.stringify(wanted)}`);
}

// Whether the function fails with an error for which `fits` returns true.
export async function throws(run, fits, name) {
  try {
    await run();
  } catch (error) {
    return ok(fits(error), name, `${error.constructor.name}: ${error.message}`);
  }
  return ok(false, name, 'no error');
}

// Runs checks; an error among them is one failure, and the rest goes on.
export async function group(name, run) {
  console.log(`# ${name}`);
  try {
    await run();
  } catch (error) {
    ok(false, `${name}: all checks ran`, error.stack);
  }
}

export function skip(name, reason) {
  tests += 1;
  console.log(`ok ${tests} - ${name} # SKIP ${reason}`);
}

export function done() {
  console.log(`1..${tests}`);
  return failures === 0;
}
