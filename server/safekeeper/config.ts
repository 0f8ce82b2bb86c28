/**
 * Settings of a safekeeper process, from its command line. Plain data; every bad value is an `invalid` error that names its flag.
 *
 *   -D DIR  --id 1  --listen-pg 127.0.0.1:5454  --listen-http 127.0.0.1:7676
 *   --peers 2=10.0.0.2:5454,3=10.0.0.3:5454  --remote-storage s3://bucket/prefix  --cluster-id 0123456789abcdef
 *   --auth-validation-public-key-path FILE|FOLDER  --auth-token-path FILE
 *
 * `listen-pg` is Neon's name for the port that WAL passes through. Port 0 lets the system choose. All safekeepers that are peers have the same cluster id,
 * which their WAL in the remote storage is filed under.
 */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { type NodeId, nodeId } from '../../engine/model/ids.ts';
import { parseRemoteStorage } from '../object-store/remote-storage.ts';
import { type HostPort, parseHostPort, parseSafekeepers, type SafekeeperAddress } from '../pageserver/config.ts';
import type { BackupLocation } from './backup-location.ts';
import { safekeeperHttpPortDefault, safekeeperPortDefault } from './safekeeper-server.ts';

export interface SafekeeperConfig {
  readonly dir: string;
  readonly nodeId: NodeId;
  readonly listen: HostPort;
  readonly http: HostPort;
  /** The other safekeepers of the same timelines. */
  readonly peers: readonly SafekeeperAddress[];
  /** Where WAL is sent; null: nowhere. */
  readonly backup: BackupLocation | null;
  /** Keys that tokens are checked with: a PEM file or a folder of them. Absent: everybody is trusted. */
  readonly publicKeyPath?: string;
  /** Its own token for its peers, in a file. Absent: they want none. */
  readonly tokenPath?: string;
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
    peers: parsePeers(flags.peers ?? '', Number(id)),
    backup: parseBackup(flags['remote-storage'], flags['cluster-id']),
    ...(keys && { publicKeyPath: resolve(keys) }),
    ...(flags['auth-token-path'] && { tokenPath: resolve(flags['auth-token-path']) }),
  };
}

function parseBackup(remoteStorage: string | undefined, cluster: string | undefined): BackupLocation | null {
  if (remoteStorage === undefined) return null;
  if (cluster === undefined || !/^[0-9a-f]{16}$/.test(cluster)) {
    throw new PageliteError(
      'invalid',
      '--cluster-id: expected 16 hex digits, the same for all safekeepers of a cluster',
    );
  }
  return { remoteStorage: parseRemoteStorage(remoteStorage), cluster };
}

function parsePeers(text: string, ownId: number): readonly SafekeeperAddress[] {
  const peers = parseSafekeepers(text, '--peers');
  if (peers.some(({ id }) => id === ownId)) {
    throw new PageliteError('invalid', `--peers: ${ownId} is this safekeeper itself`);
  }
  return peers;
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
        peers: { type: 'string' },
        'remote-storage': { type: 'string' },
        'cluster-id': { type: 'string' },
        'auth-validation-public-key-path': { type: 'string' },
        'auth-token-path': { type: 'string' },
      },
    });
    return values;
  } catch (error) {
    throw new PageliteError('invalid', messageOf(error));
  }
}
