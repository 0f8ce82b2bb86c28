/**
 * A WalService over WAL that a test has at hand: it hands out what was appended, in pieces of a size of its own choice, and can lose the
 * connection, lie or be away. The proposer's side is not played.
 */
import { PageliteError } from '../../engine/errors.ts';
import { noConfiguration } from '../../engine/model/configuration.ts';
import { type NodeId, nodeId, type TenantTimelineId, type TimelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import type { Channel, SafekeeperTimelineStatus, WalChunk, WalService } from '../../engine/services.ts';

interface Log {
  readonly startLsn: Lsn;
  bytes: Uint8Array;
}

export class CapturedWal implements WalService {
  readonly nodeId: NodeId;
  readonly #chunkBytes: number;
  readonly #logs = new Map<TimelineId, Log>();
  #wake: (() => void)[] = [];
  /** Calls fail with this while it is set. */
  away: PageliteError | null = null;
  /** A stream ends with an error after this many bytes. */
  bytesPerConnection = Number.POSITIVE_INFINITY;
  connectionCount = 0;
  statusCount = 0;

  constructor(id = 1, chunkBytes = 100_000) {
    this.nodeId = nodeId(id);
    this.#chunkBytes = chunkBytes;
  }

  append(id: TenantTimelineId, lsn: Lsn, bytes: Uint8Array): void {
    const log = this.#logs.get(id.timelineId) ?? { startLsn: lsn, bytes: new Uint8Array(0) };
    const at = lsn - log.startLsn;
    if (at !== log.bytes.length) throw new Error('a test appends WAL without gaps');
    const longer = new Uint8Array(at + bytes.length);
    longer.set(log.bytes);
    longer.set(bytes, at);
    log.bytes = longer;
    this.#logs.set(id.timelineId, log);
    for (const wake of this.#wake.splice(0)) wake();
  }

  connectProposer(): Channel {
    throw new Error('captured WAL has no proposer');
  }

  async getStatus(id: TenantTimelineId): Promise<SafekeeperTimelineStatus | null> {
    this.statusCount++;
    if (this.away !== null) throw this.away;
    const log = this.#logs.get(id.timelineId);
    if (log === undefined) return null;
    const end = (log.startLsn + log.bytes.length) as Lsn;
    const unknown = { backupLsn: 0 as Lsn, remoteConsistentLsn: 0 as Lsn };
    const { startLsn } = log;
    return {
      ...unknown,
      term: 1,
      flushLsn: end,
      commitLsn: end,
      startLsn,
      configuration: noConfiguration,
      termHistory: [[1, startLsn]],
    };
  }

  /** What the pageserver said last. */
  readonly reported = new Map<string, Lsn>();
  async reportConsistent({ timelineId }: TenantTimelineId, lsn: Lsn): Promise<void> {
    if (this.away !== null) throw this.away;
    this.reported.set(timelineId, lsn);
  }

  /** A test may put its own in place. */
  readWal: WalService['readWal'] = (id, startLsn, signal) => this.#read(id, startLsn, signal);

  async *#read(id: TenantTimelineId, startLsn: Lsn, signal: AbortSignal): AsyncGenerator<WalChunk, void, undefined> {
    const log = this.#logs.get(id.timelineId);
    if (log === undefined) throw new PageliteError('notFound', 'no WAL of this timeline');
    this.connectionCount++;
    let sent = 0;
    for (let at = startLsn as number; !signal.aborted; ) {
      if (this.away !== null) throw this.away;
      const from = at - log.startLsn;
      const bytes = log.bytes.slice(from, from + this.#chunkBytes);
      if (bytes.length === 0) {
        await new Promise<void>((resolve) => {
          this.#wake.push(resolve);
          signal.addEventListener('abort', () => resolve(), { once: true });
        });
        continue;
      }
      yield { startLsn: at as Lsn, bytes, commitLsn: (log.startLsn + log.bytes.length) as Lsn };
      at += bytes.length;
      sent += bytes.length;
      if (sent >= this.bytesPerConnection) throw new PageliteError('unavailable', 'connection lost');
    }
  }
}
