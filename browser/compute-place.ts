/**
 * R3. Where a compute of this tab has its storage, and what runs its I/O host. Used by the storage worker.
 *
 *   place            I/O host                    the compute blocks on
 *   server           in the storage worker       shared memory
 *   server           on the server               synchronous XMLHttpRequest: the page is not cross-origin isolated
 *   local, hybrid    in the storage worker       shared memory
 */
import { PageliteError } from '../engine/errors.ts';
import { pageSize } from '../engine/limits.ts';
import type { TenantTimelineId } from '../engine/model/ids.ts';
import { formatLsn, type Lsn } from '../engine/model/lsn.ts';
import type { Clock, Log, Random } from '../engine/services.ts';
import { type ComputeStart, IoHost, type IoHostOptions } from '../smgr-plugin/bridge/io-host.ts';
import type { BranchPlace } from './api.ts';
import { XhrSession } from './bridge/xhr-session.ts';
import type { BranchMoment } from './local/branch-moments.ts';
import type { LocalRepository } from './local/local-repository.ts';
import type { ServerClient } from './net/server-client.ts';
import { CountedPages, newReadCounters, type ReadCounters } from './page-counters.ts';

/** What was read since a compute was opened. */
export interface PlaceCounters {
  readonly pages: number;
  /** Of them, or for them, from the server. */
  readonly serverPages: number;
  readonly bytesFromServer: number;
}

/** An I/O host that runs, here or elsewhere. */
export interface RunningHost {
  readonly start: ComputeStart;
  /** Where the compute sends its requests; null: it has shared memory. */
  readonly bridgeUrl: string | null;
  close(): Promise<void>;
}

export interface ComputePlace {
  readonly id: TenantTimelineId;
  readonly place: BranchPlace;
  /** Null: for writing. */
  readonly readOnlyAt: Lsn | null;
  /** `onFailed` is called once if it cannot go on. */
  run(onFailed: (error: PageliteError) => void): Promise<RunningHost>;
  counters(): PlaceCounters;
  close(): void;
}

export interface Host {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

export async function serverPlace(
  server: ServerClient,
  id: TenantTimelineId,
  readOnlyAt: Lsn | null,
  host: Host,
): Promise<ComputePlace> {
  const status = await server.statusNow();
  if (!globalThis.crossOriginIsolated) return placeWithoutMemory(server, id, readOnlyAt);
  const counters = newReadCounters();
  const remote = server.openPages(id, host, counters.traffic);
  const options = {
    pages: new CountedPages(remote, counters),
    wal: server.openSafekeepers(status),
    safekeepersGeneration: status.safekeepersGeneration,
  };
  return {
    id,
    place: 'server',
    readOnlyAt,
    run: (onFailed) => runHere({ ...options, ...host, mode: modeOf(readOnlyAt) }, onFailed),
    counters: () => ({
      pages: counters.pages,
      serverPages: counters.pages,
      bytesFromServer: counters.traffic.bytesReceived,
    }),
    close: () => remote.close(),
  };
}

/** `serverReads`: all that the tab's repository reads from the server. */
export async function localPlace(
  repository: LocalRepository,
  branch: string,
  at: BranchMoment,
  host: Host,
  serverReads: ReadCounters,
): Promise<ComputePlace> {
  if (!globalThis.crossOriginIsolated) throw notIsolated(branch);
  const { id, pages, wal, mode } = await repository.openPlace(branch, at);
  const { place } = await repository.branch(branch);
  const counters = newReadCounters();
  const before = { pages: serverReads.pages, bytes: serverReads.traffic.bytesReceived };
  return {
    id,
    place,
    readOnlyAt: mode === 'primary' ? null : mode.readOnlyAt,
    run: (onFailed) => runHere({ pages: new CountedPages(pages, counters), wal, mode, ...host }, onFailed),
    counters: () => ({
      pages: counters.pages,
      serverPages: serverReads.pages - before.pages,
      bytesFromServer: serverReads.traffic.bytesReceived - before.bytes,
    }),
    close: () => {},
  };
}

function placeWithoutMemory(server: ServerClient, id: TenantTimelineId, readOnlyAt: Lsn | null): ComputePlace {
  const open = { ...id, readOnlyAt: readOnlyAt === null ? null : formatLsn(readOnlyAt) };
  let startPages = 0;
  let startBytes = 0;
  return {
    id,
    place: 'server',
    readOnlyAt,
    async run(onFailed) {
      const session = await XhrSession.open(server.url, open, onFailed);
      const { start, url } = session;
      startBytes = session.startBytes;
      for (const { pages } of start.prewarm) startPages += pages.length / pageSize;
      return { start, bridgeUrl: url, close: () => session.close() };
    },
    // The rest is counted by the compute, which reads without this worker.
    counters: () => ({ pages: startPages, serverPages: startPages, bytesFromServer: startBytes }),
    close: () => {},
  };
}

async function runHere(options: IoHostOptions, onFailed: (error: PageliteError) => void): Promise<RunningHost> {
  const ioHost = new IoHost(options);
  const start = await ioHost.start();
  ioHost.onFailed(onFailed);
  return { start, bridgeUrl: null, close: () => ioHost.close() };
}

const modeOf = (readOnlyAt: Lsn | null): IoHostOptions['mode'] => (readOnlyAt === null ? 'primary' : { readOnlyAt });

function notIsolated(branch: string): PageliteError {
  const headers =
    'Cross-Origin-Opener-Policy: same-origin and Cross-Origin-Embedder-Policy: require-corp (or credentialless)';
  const text = `branch "${branch}" is in this tab and needs shared memory, which this page has not: serve it with ${headers}, or call isolatePage() where you cannot`;
  return new PageliteError('invalid', text, { branch });
}
