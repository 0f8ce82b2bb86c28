/**
 * Settings of a console process, from its command line: `-D DIR [--listen 127.0.0.1:9899] [--allow-origin ORIGIN]...`. DIR is the repository's.
 */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { type HostPort, parseHostPort } from '../pageserver/config.ts';

export const consolePortDefault = 9899;

export interface ConsoleConfig {
  readonly dir: string;
  readonly listen: HostPort;
  readonly allowOrigins: readonly string[];
}

/** Throws `invalid`, naming the flag. */
export function parseConsoleArgs(args: readonly string[]): ConsoleConfig {
  const flags = readFlags(args);
  if (flags.dir === undefined) throw new PageliteError('invalid', '-D DIR is missing: the repository');
  return {
    dir: resolve(flags.dir),
    listen: parseHostPort(flags.listen ?? String(consolePortDefault), '--listen'),
    allowOrigins: (flags['allow-origin'] ?? []).map(parseOrigin),
  };
}

function readFlags(args: readonly string[]) {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        dir: { type: 'string', short: 'D' },
        listen: { type: 'string' },
        'allow-origin': { type: 'string', multiple: true },
      },
    });
    return values;
  } catch (error) {
    throw new PageliteError('invalid', messageOf(error));
  }
}

/** As a browser writes it in `Origin`. Throws `invalid`. */
export function parseOrigin(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') return url.origin;
  throw new PageliteError('invalid', `--allow-origin: "${text}" is not an origin such as https://example.com`);
}
