/** Reads a secret without it being seen: from the environment, a prompt that shows nothing, or standard input. Never from the arguments. */
import { createInterface } from 'node:readline/promises';
import { Writable } from 'node:stream';

export const passwordVariable = 'PAGELITE_PASSWORD';

export async function readPassword(prompt: string, env: NodeJS.ProcessEnv): Promise<string> {
  const fromEnvironment = env[passwordVariable];
  if (fromEnvironment !== undefined) return fromEnvironment;
  const isTerminal = process.stdin.isTTY === true;
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  if (isTerminal) process.stderr.write(prompt);
  const lines = createInterface({ input: process.stdin, output: silent, terminal: isTerminal });
  try {
    // The first line; an input without any is an empty password, which is refused.
    for await (const line of lines) return line;
    return '';
  } finally {
    lines.close();
    if (isTerminal) process.stderr.write('\n');
  }
}
