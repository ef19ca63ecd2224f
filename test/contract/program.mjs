// Starts the programs that the checks talk to, and ends them.
import { spawn } from 'node:child_process';
import { createServer } from 'node:net';
import path from 'node:path';
import { createInterface } from 'node:readline';

const SERVICES = path.join(import.meta.dirname ?? new URL('.', import.meta.url).pathname, '../services');
const running = new Set();

function launch(command, args) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  running.add(child);
  child.on('exit', () => running.delete(child));
  return child;
}

export function stopAll() {
  for (const child of running) child.kill('SIGTERM');
}

// A stand-in of test/services: { endpoint, control } and what its control URL can do.
export async function startStandIn(script, settings = {}) {
  const child = launch('python3', [path.join(SERVICES, script), '--with-parent', '--settings', JSON.stringify(settings)]);
  const printed = {};
  for await (const line of createInterface({ input: child.stdout })) {
    const [, name, value] = /^(\w+)=(.*)$/.exec(line) ?? [];
    if (name) printed[name] = value;
    if (printed.control) break;
  }
  if (!printed.control) throw new Error(`${script} did not start`);
  const control = async (method, page, document) => {
    const body = document === undefined ? undefined : JSON.stringify(document);
    const answer = await fetch(printed.control + page, { method, body });
    if (!answer.ok) throw new Error(`${script}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  };
  return {
    endpoint: printed.endpoint,
    rules: (...rules) => control('PUT', '/__faults', rules),
    settings: (changes) => control('PUT', '/__settings', changes),
    counts: () => control('GET', '/__counts'),
  };
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

// Prism before a stand-in: it answers with an error of its own where a request or an answer departs from
// the description. Returns its URL.
export async function startPrism(modules, description, upstream) {
  const port = await freePort();
  const program = path.join(modules, '@stoplight/prism-cli/dist/index.js');
  const child = launch('node', [program, 'proxy', '--errors', '-p', String(port), description, upstream]);
  const said = [];
  const lines = createInterface({ input: child.stdout });
  await new Promise((resolve, reject) => {
    lines.on('line', (line) => {
      said.push(line);
      if (line.includes('Prism is listening')) resolve();
    });
    child.on('exit', () => reject(new Error(`Prism did not start:\n${said.join('\n')}`)));
  });
  return `http://127.0.0.1:${port}`;
}
