/**
 * Settings of a safekeeper process, from its command line. Plain data; every bad value is an `invalid` error that names its flag.
 *
 *   -D DIR  --id 1  --listen-pg 127.0.0.1:5454  --listen-http 127.0.0.1:7676
 *   --auth-validation-public-key-path FILE|FOLDER
 *
 * `listen-pg` is Neon's name for the port that WAL passes through. Port 0 lets the system choose.
 */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { type NodeId, nodeId } from '../../engine/model/ids.ts';
import { type HostPort, parseHostPort } from '../pageserver/config.ts';
import { safekeeperHttpPortDefault, safekeeperPortDefault } from './safekeeper-server.ts';

export interface SafekeeperConfig {
  readonly dir: string;
  readonly nodeId: NodeId;
  readonly listen: HostPort;
  readonly http: HostPort;
  /** Keys that tokens are checked with: a PEM file or a folder of them. Absent: everybody is trusted. */
  readonly publicKeyPath?: string;
}

export function parseSafekeeperArgs(args: readonly string[]): SafekeeperConfig {
  const flags = readFlags(args);
  if (flags.dir === undefined) {
    throw new PageliteError('invalid', '-D DIR is missing: where the safekeeper keeps its files');
  }
  const id = flags.id ?? '1';
  const keys = flags['auth-validation-public-key-path'];
  if (!/^\d+$/.test(id)) throw new PageliteError('invalid', `--id: "${id}" is not a node id`);
  return {
    dir: resolve(flags.dir),
    nodeId: nodeId(Number(id)),
    listen: parseHostPort(flags['listen-pg'] ?? String(safekeeperPortDefault), '--listen-pg'),
    http: parseHostPort(flags['listen-http'] ?? String(safekeeperHttpPortDefault), '--listen-http'),
    ...(keys && { publicKeyPath: resolve(keys) }),
  };
}

function readFlags(args: readonly string[]) {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        dir: { type: 'string', short: 'D' },
        id: { type: 'string' },
        'listen-pg': { type: 'string' },
        'listen-http': { type: 'string' },
        'auth-validation-public-key-path': { type: 'string' },
      },
    });
    return values;
  } catch (error) {
    throw new PageliteError('invalid', messageOf(error));
  }
}
