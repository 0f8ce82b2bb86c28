/**
 * Endpoints of a repository: each a folder with `endpoint.json`, which says what a compute process (server/compute/main.ts) is to serve.
 *
 * `endpoint.json` is written by `endpoint create`, and brought up to date by `endpoint start` with where the storage is now. Nothing in the folder
 * has to survive: an endpoint that is removed and created again finds the same data.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { PageliteError } from '../../engine/errors.ts';
import { type TenantId, type TenantTimelineId, tenantId, timelineId } from '../../engine/model/ids.ts';
import { type Lsn, parseLsn } from '../../engine/model/lsn.ts';
import { checkListenHost, isLoopbackHost } from '../auth/listen-policy.ts';
import { runningPid } from '../process/pid-file.ts';
import { FreePorts } from '../process/ports.ts';
import { localhost, type Repository, storagePorts, writeFileWhole } from './repository.ts';

const hex32 = z.string().regex(/^[0-9a-f]{32}$/, 'expected 32 hex digits');
const port = z.int().min(1).max(65535);
const endpointSchema = z.strictObject({
  endpointId: z.string(),
  tenantId: hex32,
  timelineId: hex32,
  /** For messages; the timeline id is what counts. */
  branchName: z.string(),
  /** Read-only, at this LSN; null is a writing endpoint at the branch's end. */
  lsn: z.string().nullable(),
  pgPort: port,
  /** The user chose the port, so it is not moved. */
  pgPortFixed: z.boolean(),
  httpPort: port.nullable(),
  /** Where its Postgres port listens. */
  host: z.string().default('127.0.0.1'),
  /** How clients prove who they are. */
  auth: z.enum(['trust', 'scram-sha-256']).default('trust'),
  /** PEM files; null: TLS is not offered. */
  tls: z.strictObject({ certPath: z.string(), keyPath: z.string(), required: z.boolean() }).nullable().default(null),
  /** In MB, as the setting of that name in Neon: how far it may be ahead of the pageserver before writers wait. 0: no bound. Absent: the default. */
  maxReplicationWriteLag: z.int().nonnegative().optional(),
  /** Where the storage was when the endpoint was last started. */
  pageserver: z.strictObject({ host: z.string(), port }).nullable(),
  safekeepers: z.array(z.strictObject({ id: z.int().positive(), host: z.string(), port })),
  /** Which configuration they are. */
  safekeepersGeneration: z.int().positive().optional(),
});

export type EndpointConfig = z.infer<typeof endpointSchema>;
export type EndpointStatus = 'running' | 'stopped' | 'crashed';

/** The first endpoint's port, as Neon's; the next ones get those after it. */
export const endpointPortDefault = 55432;
const nameShape = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$/;

export interface Endpoint {
  readonly name: string;
  readonly dir: string;
  readonly config: EndpointConfig;
}

export const endpointPidFile = (dir: string): string => join(dir, 'compute.pid');
export const endpointLogFile = (dir: string): string => join(dir, 'compute.log');

/** Of a repository with access control: the compute's token for pageserver and safekeepers. */
export const endpointTokenFile = (dir: string): string => join(dir, 'auth_token');

export const timelineIdsOf = (config: EndpointConfig): TenantTimelineId => ({
  tenantId: tenantId(config.tenantId),
  timelineId: timelineId(config.timelineId),
});
export const timelineOf = ({ config }: Endpoint): TenantTimelineId => timelineIdsOf(config);

export function staticLsnOf({ lsn }: EndpointConfig): Lsn | null {
  return lsn === null ? null : parseLsn(lsn);
}

export function listEndpoints(repository: Repository): Endpoint[] {
  let names: string[];
  try {
    names = readdirSync(repository.endpointsDir).sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return names.flatMap((name) => readEndpoint(repository, name) ?? []);
}

/** Throws `notFound` with the names there are. */
export function findEndpoint(repository: Repository, name: string): Endpoint {
  const endpoint = nameShape.test(name) ? readEndpoint(repository, name) : null;
  if (endpoint) return endpoint;
  const known = listEndpoints(repository).map((other) => other.name);
  const hint =
    known.length > 0 ? `There is: ${known.join(', ')}` : `Make it with: pagelite endpoint create ${name || 'NAME'}`;
  throw new PageliteError('notFound', `no endpoint "${name}". ${hint}`, { endpoint: name });
}

/** Null if there is no such folder, or it holds no `endpoint.json`. Throws `corrupt` on one that is damaged. */
function readEndpoint(repository: Repository, name: string): Endpoint | null {
  const dir = repository.endpointDir(name);
  const file = join(dir, 'endpoint.json');
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw error;
  }
  return { name, dir, config: parseEndpoint(text, file) };
}

export function readEndpointDir(dir: string): EndpointConfig {
  const file = join(dir, 'endpoint.json');
  return parseEndpoint(readFileSync(file, 'utf8'), file);
}

function parseEndpoint(text: string, file: string): EndpointConfig {
  let problem: string;
  try {
    const parsed = endpointSchema.safeParse(JSON.parse(text));
    if (parsed.success) return parsed.data;
    problem = parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ');
  } catch (error) {
    problem = (error as Error).message;
  }
  const hint = 'Remove its folder and create the endpoint again: it holds no data';
  throw new PageliteError('corrupt', `${file} is damaged: ${problem}. ${hint}`, { file });
}

export interface NewEndpoint {
  readonly name: string;
  readonly id: TenantTimelineId;
  readonly branchName: string;
  readonly lsn: string | null;
  /** Null: the next free one. */
  readonly pgPort: number | null;
  readonly httpPort: number | null;
  readonly listening?: Partial<EndpointListening>;
  /** In MB; absent: the default. */
  readonly maxReplicationWriteLag?: number | undefined;
}

/** How its Postgres port is reached. */
export type EndpointListening = Pick<EndpointConfig, 'host' | 'auth' | 'tls'>;

/** Of a repository with access control, or on an address that others reach, endpoints ask for passwords. Throws `invalid` for what is not safe. */
export function listeningOf(repository: Repository, wanted: Partial<EndpointListening>): EndpointListening {
  const { host = localhost, tls = null } = wanted;
  const auth = wanted.auth ?? (repository.hasAuth || !isLoopbackHost(host) ? 'scram-sha-256' : 'trust');
  checkListenHost('endpoint', host, auth !== 'trust', 'Let it ask for passwords: --auth scram-sha-256');
  return { host, auth, tls };
}

/** Throws `invalid` if the name is malformed or taken, or another endpoint has the port. */
export async function createEndpoint(repository: Repository, wanted: NewEndpoint): Promise<Endpoint> {
  const { name } = wanted;
  checkNewEndpointName(repository, name);
  const config: EndpointConfig = {
    endpointId: name,
    tenantId: wanted.id.tenantId,
    timelineId: wanted.id.timelineId,
    branchName: wanted.branchName,
    lsn: wanted.lsn,
    pgPort: await choosePort(repository, wanted.pgPort),
    pgPortFixed: wanted.pgPort !== null,
    httpPort: wanted.httpPort,
    ...listeningOf(repository, wanted.listening ?? {}),
    ...(wanted.maxReplicationWriteLag !== undefined && { maxReplicationWriteLag: wanted.maxReplicationWriteLag }),
    pageserver: null,
    safekeepers: [],
  };
  const dir = repository.endpointDir(name);
  await mkdir(dir, { recursive: true });
  const endpoint = { name, dir, config };
  writeEndpoint(endpoint);
  return endpoint;
}

export function checkNewEndpointName(repository: Repository, name: string): void {
  if (!nameShape.test(name)) {
    const shape = 'letters, digits, "_", "-" and ".", at most 63, beginning with a letter, a digit or "_"';
    throw new PageliteError('invalid', `"${name}" cannot be the name of an endpoint: ${shape}`, { endpoint: name });
  }
  if (readEndpoint(repository, name)) {
    const hint = `Start it with: pagelite endpoint start ${name}`;
    throw new PageliteError('invalid', `endpoint "${name}" exists. ${hint}, or choose another name`, {
      endpoint: name,
    });
  }
}

async function choosePort(repository: Repository, wanted: number | null): Promise<number> {
  const others = listEndpoints(repository);
  if (wanted === null) return nextPort(repository, null);
  const owner = others.find((other) => other.config.pgPort === wanted);
  if (owner) {
    const text = `port ${wanted} is endpoint "${owner.name}"'s. Choose another --pg-port, or leave it out`;
    throw new PageliteError('invalid', text, { port: wanted, endpoint: owner.name });
  }
  return wanted;
}

/** The first free port that nothing of the repository has; that of `moving`, if it is free. */
export async function nextPort(repository: Repository, moving: Endpoint | null): Promise<number> {
  return freePorts(repository, localhost, moving ? [moving.config.pgPort] : []).next(endpointPortDefault);
}

/** A search for ports that nothing of the repository has, running or not; what is `moving` may have its own again. */
export function freePorts(repository: Repository, host: string, moving: readonly number[] = []): FreePorts {
  const endpoints = listEndpoints(repository).flatMap(({ config }) => [
    config.pgPort,
    config.httpPort ?? config.pgPort,
  ]);
  const taken = [...storagePorts(repository.readConfig()), ...endpoints];
  return new FreePorts(
    host,
    taken.filter((port) => !moving.includes(port)),
  );
}

export function writeEndpoint({ dir, config }: Endpoint): void {
  writeFileWhole(join(dir, 'endpoint.json'), `${JSON.stringify(endpointSchema.parse(config), null, 2)}\n`);
}

export async function removeEndpoint(endpoint: Endpoint): Promise<void> {
  await rm(endpoint.dir, { recursive: true, force: true });
}

/** `crashed`: it was started, was not stopped and does not run. */
export function statusOf({ dir }: Endpoint): EndpointStatus {
  const file = endpointPidFile(dir);
  if (runningPid(file) !== null) return 'running';
  try {
    readFileSync(file);
    return 'crashed';
  } catch {
    return 'stopped';
  }
}

/** Throws `invalid` if another endpoint writes to this timeline now. */
export function checkNoOtherWriter(repository: Repository, self: Endpoint): void {
  if (self.config.lsn !== null) return;
  const writer = runningWriter(repository, timelineOf(self), self.name);
  if (writer === null) return;
  const text =
    `endpoint "${writer}" writes to branch ${self.config.branchName} already. Stop it with: pagelite endpoint stop ${writer}, ` +
    'or make this one read-only with --lsn, or force it with --allow-multiple (the older one is then fenced and ends)';
  throw new PageliteError('invalid', text, { endpoint: writer, branch: self.config.branchName });
}

function runningWriter(repository: Repository, id: TenantTimelineId, except: string): string | null {
  const writer = listEndpoints(repository).find(
    (other) =>
      other.name !== except &&
      other.config.lsn === null &&
      other.config.tenantId === id.tenantId &&
      other.config.timelineId === id.timelineId &&
      statusOf(other) === 'running',
  );
  return writer?.name ?? null;
}

export function endpointsOfTenant(repository: Repository, tenant: TenantId): Endpoint[] {
  return listEndpoints(repository).filter(({ config }) => config.tenantId === tenant);
}
