/**
 * Settings of a pageserver process, from its command line. Plain data; every bad value is an `invalid` error that names its flag.
 *
 *   -D DIR  --id 1  --listen-pg 127.0.0.1:64000  --listen-http 127.0.0.1:9898  --safekeepers 1=127.0.0.1:5454,2=127.0.0.1:5455
 *
 *   --remote-storage s3://bucket/prefix|file:///path   --new-remote-storage   --disk-budget 10GB
 *   --auth-validation-public-key-path FILE|FOLDER      --auth-token-path FILE
 *
 * `listen-pg` is Neon's name for the port that computes read pages from. Port 0 lets the system choose.
 */
import { resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf, PageliteError } from '../../engine/errors.ts';
import { diskBudgetBytes } from '../../engine/limits.ts';
import { parseByteSize } from '../../engine/model/byte-size.ts';
import { type NodeId, nodeId } from '../../engine/model/ids.ts';
import { parseRemoteStorage, type RemoteStorage } from '../object-store/remote-storage.ts';

export interface HostPort {
  readonly host: string;
  readonly port: number;
}

export interface SafekeeperAddress extends HostPort {
  readonly id: NodeId;
}

export interface PageserverConfig {
  /** Holds everything that the pageserver stores, its log and its pid file. */
  readonly dir: string;
  readonly nodeId: NodeId;
  readonly listen: HostPort;
  readonly http: HostPort;
  readonly safekeepers: readonly SafekeeperAddress[];
  /** Where its truth is; null: in `dir`. */
  readonly remoteStorage: RemoteStorage | null;
  /** The remote storage may be empty, and is made then. */
  readonly mayCreateStorage: boolean;
  /** Keys that tokens are checked with: a PEM file or a folder of them. Absent: everybody is trusted. */
  readonly publicKeyPath?: string;
  /** Holds the token for the safekeepers. */
  readonly tokenPath?: string;
  /** Bytes of `dir` for what is kept of a bucket. */
  readonly diskBudgetBytes: number;
}

export const pagestreamPortDefault = 64000;
export const httpPortDefault = 9898;
const hostDefault = '127.0.0.1';

export function parsePageserverArgs(args: readonly string[]): PageserverConfig {
  const flags = readFlags(args);
  if (flags.dir === undefined)
    throw new PageliteError('invalid', '-D DIR is missing: where the pageserver keeps its files');
  return {
    dir: resolve(flags.dir),
    nodeId: parseNodeId(flags.id ?? '1', '--id'),
    listen: parseHostPort(flags['listen-pg'] ?? `${hostDefault}:${pagestreamPortDefault}`, '--listen-pg'),
    http: parseHostPort(flags['listen-http'] ?? `${hostDefault}:${httpPortDefault}`, '--listen-http'),
    safekeepers: parseSafekeepers(flags.safekeepers ?? ''),
    remoteStorage: flags['remote-storage'] === undefined ? null : parseRemoteStorage(flags['remote-storage']),
    mayCreateStorage: flags['new-remote-storage'] ?? false,
    ...accessPaths(flags),
    diskBudgetBytes: parseBytes(flags['disk-budget'] ?? String(diskBudgetBytes), '--disk-budget'),
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
        safekeepers: { type: 'string' },
        'remote-storage': { type: 'string' },
        'new-remote-storage': { type: 'boolean' },
        'disk-budget': { type: 'string' },
        'auth-validation-public-key-path': { type: 'string' },
        'auth-token-path': { type: 'string' },
      },
    });
    return values;
  } catch (error) {
    throw new PageliteError('invalid', messageOf(error));
  }
}

function accessPaths(flags: ReturnType<typeof readFlags>): Pick<PageserverConfig, 'publicKeyPath' | 'tokenPath'> {
  const { 'auth-validation-public-key-path': keys, 'auth-token-path': token } = flags;
  return { ...(keys && { publicKeyPath: resolve(keys) }), ...(token && { tokenPath: resolve(token) }) };
}

function parseBytes(text: string, flag: string): number {
  const bytes = parseByteSize(text);
  if (bytes === null) throw new PageliteError('invalid', `${flag}: "${text}" is not a size such as 500MB or 10GB`);
  return bytes;
}

function parseNodeId(text: string, flag: string): NodeId {
  if (!/^\d+$/.test(text)) throw new PageliteError('invalid', `${flag}: "${text}" is not a node id`);
  return nodeId(Number(text));
}

/** `host:port`, or a port alone on the loopback address. An IPv6 address stands in brackets. */
export function parseHostPort(text: string, flag: string): HostPort {
  const match = /^(?:(.*):)?(\d{1,5})$/.exec(text);
  const port = Number(match?.[2]);
  if (!match || port > 65535) throw new PageliteError('invalid', `${flag}: "${text}" is not host:port`);
  return { host: (match[1] || hostDefault).replace(/^\[(.*)\]$/, '$1'), port };
}

/** `id=host:port`, separated by commas. Empty: timelines receive no WAL. */
export function parseSafekeepers(text: string, flag = '--safekeepers'): SafekeeperAddress[] {
  const addresses = text
    .split(',')
    .filter((part) => part.trim() !== '')
    .map((part) => {
      const [id = '', address = ''] = part.trim().split('=');
      return { id: parseNodeId(id, flag), ...parseHostPort(address, flag) };
    });
  if (new Set(addresses.map(({ id }) => id)).size !== addresses.length) {
    throw new PageliteError('invalid', `${flag}: an id is there twice`);
  }
  return addresses;
}
