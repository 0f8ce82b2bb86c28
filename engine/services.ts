/**
 * The seams of Pagelite. Everything on either side of one of these can run in the same thread, behind a worker, or across a
 * WebSocket, and passes the same contract suite (tests/contracts/).
 */

import type { SafekeeperConfiguration } from './model/configuration.ts';
import type { NodeId, TenantTimelineId } from './model/ids.ts';
import type { Key, KeyPrefix } from './model/key.ts';
import type { Lsn } from './model/lsn.ts';
import type { BlockNumber, RelTag } from './model/rel.ts';

/** Time, injected so that simulations own it. */
export interface Clock {
  /** Milliseconds since the Unix epoch. */
  now(): number;
  /** Resolves after `ms`, or rejects `cancelled` when the signal fires. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

/** Randomness, injected so that a seed repeats a run. */
export interface Random {
  /** A float in [0, 1). */
  next(): number;
  fill(bytes: Uint8Array): void;
}

export interface Log {
  debug(message: string, data?: object): void;
  info(message: string, data?: object): void;
  warn(message: string, data?: object): void;
  error(message: string, data?: object): void;
}

/**
 * Where a read stands in the WAL (Neon's request_lsn and not_modified_since).
 *
 * The answer is the page as of `requestLsn` (`maxLsn`: the latest). The service first waits until it has ingested
 * `notModifiedSince`; the caller promises that the page has not changed between that and `requestLsn`, so it need not wait for more.
 */
export interface ReadLsn {
  readonly requestLsn: Lsn;
  readonly notModifiedSince: Lsn;
}

/** A file or (bytes null) directory of a PostgreSQL data directory; `path` is relative to it, without a leading slash. */
export interface DataFile {
  readonly path: string;
  readonly bytes: Uint8Array | null;
}

/** Pages that a booting compute is going to ask for, sent along so that boot costs one round trip. */
export interface PrewarmPages {
  readonly rel: RelTag;
  /** Size of the relation in blocks. */
  readonly relSize: BlockNumber;
  readonly firstBlock: BlockNumber;
  /** Whole pages, one after another. May be empty: then only the size is told. */
  readonly pages: Uint8Array;
}

export interface Basebackup {
  /** Where the compute boots and its WAL begins. */
  readonly lsn: Lsn;
  /** Start of the record before `lsn`, for the first record's xl_prev; 0 if not known. */
  readonly prevLsn: Lsn;
  readonly systemIdentifier: bigint;
  readonly files: readonly DataFile[];
  readonly prewarm: readonly PrewarmPages[];
}

export interface TimelineStatus {
  /** All WAL up to here is ingested: reads up to here need not wait. */
  readonly lastRecordLsn: Lsn;
  /** Start of the last record ingested; 0 if none is known. */
  readonly prevRecordLsn: Lsn;
  /** Everything up to here is in layers that can be read again without memory. */
  readonly diskConsistentLsn: Lsn;
  /** Everything up to here is in the object store: if the host is lost, WAL is read again from here. */
  readonly remoteConsistentLsn: Lsn;
  /** What is older may have been collected as garbage: reads and branches begin here, or where a lease holds. */
  readonly gcCutoffLsn: Lsn;
  /** The first LSN of this timeline itself: the branch point, or the template's LSN. */
  readonly startLsn: Lsn;
  readonly ancestor: { readonly timelineId: string; readonly lsn: Lsn } | null;
  /** Bytes of layer files of this timeline, without its ancestors. */
  readonly layerBytes: number;
  /** Why the timeline stopped ingesting, if it did. */
  readonly stopped: string | null;
}

/**
 * Reads of one timeline. The ancestor of a timeline is a PageService too, so a branch in a tab can have its ancestor on a server.
 *
 * Rejections: `notFound` (timeline gone), `invalid` (LSN before the timeline's start or retention), `unavailable` (LSN not
 * reached in `waitLsnTimeoutMs`, or peer away), `corrupt`, `cancelled`, `closed`. Returned arrays belong to the caller.
 */
export interface PageService {
  readonly id: TenantTimelineId;
  /**
   * `blockCount` (1 to `pagesPerRequestMax`) consecutive pages of a relation, 8192 bytes each.
   * A block past the relation's end, or of a relation that does not exist, is a page of zeros, not an error.
   */
  getPages(
    at: ReadLsn,
    rel: RelTag,
    firstBlock: BlockNumber,
    blockCount: number,
    signal?: AbortSignal,
  ): Promise<Uint8Array>;
  /** Reconstructed values of at most `keysPerRequestMax` keys, in the order asked; null where the key does not exist at that LSN. */
  getImages(at: ReadLsn, keys: readonly Key[], signal?: AbortSignal): Promise<(Uint8Array | null)[]>;
  /** Size in blocks, or null if the relation fork does not exist at that LSN. */
  getRelSize(at: ReadLsn, rel: RelTag, signal?: AbortSignal): Promise<BlockNumber | null>;
  /** All relation forks of a database (spc, db) with their sizes, in key order. Empty if the database does not exist. */
  listRels(at: ReadLsn, spc: number, db: number, signal?: AbortSignal): Promise<{ rel: RelTag; size: BlockNumber }[]>;
  /** The data directory of a compute that boots at `lsn`, or at the last ingested LSN when null. */
  getBasebackup(lsn: Lsn | null, signal?: AbortSignal): Promise<Basebackup>;
  getStatus(signal?: AbortSignal): Promise<TimelineStatus>;
  /**
   * Keeps `lsn` readable for `validForMs` from now, whatever garbage collection does; asking again prolongs it. Rejects `invalid` if it is collected
   * already.
   */
  leaseLsn(lsn: Lsn, signal?: AbortSignal): Promise<{ readonly validForMs: number }>;
}

/** A message pipe in both directions: whole messages, in order, until it closes. A WebSocket or a pair in memory. */
export interface Channel {
  /** Takes the bytes over: the caller must not change them afterwards. Throws `closed` once closed. */
  send(message: Uint8Array): void;
  /** Bytes handed to `send` that have not left yet; for back-pressure. */
  readonly bufferedBytes: number;
  /** At most one handler of each; messages that arrive before one is set are kept for it. */
  onMessage(handler: (message: Uint8Array) => void): void;
  /** Called once, also if already closed; `error` is absent after an orderly close. */
  onClose(handler: (error?: Error) => void): void;
  close(error?: Error): void;
}

export interface WalChunk {
  readonly startLsn: Lsn;
  /** WAL bytes as in the segment files, page headers included. Empty: only `commitLsn` moved. */
  readonly bytes: Uint8Array;
  /** How far the quorum has committed, as this safekeeper knows. */
  readonly commitLsn: Lsn;
}

export interface SafekeeperTimelineStatus {
  readonly term: number;
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
  /** First LSN that this safekeeper holds. */
  readonly startLsn: Lsn;
  /** Up to here WAL is in the object store, as far as this safekeeper knows; 0 if it does not. */
  readonly backupLsn: Lsn;
  /** Up to here the pageserver needs no WAL any more; 0 if it has not said. */
  readonly remoteConsistentLsn: Lsn;
  /** Which safekeepers hold it, as was stored here last. */
  readonly configuration: SafekeeperConfiguration;
  /** [term, start LSN] pairs, oldest first. */
  readonly termHistory: readonly (readonly [number, Lsn])[];
}

/** What safekeepers tell each other of each timeline, again and again: what SafekeeperTimelineStatus is, but for its history. */
export interface PeerTimelineInfo extends Omit<SafekeeperTimelineStatus, 'termHistory'> {
  readonly id: TenantTimelineId;
  /** The term of the last record below flushLsn; 0 if there is none. */
  readonly lastTerm: number;
}

/** One safekeeper. */
export interface WalService {
  readonly nodeId: NodeId;
  /** A proposer's side of the proposer-acceptor protocol (protocol/proposer-acceptor.ts). The greeting creates the timeline. */
  connectProposer(id: TenantTimelineId): Channel;
  /**
   * Committed WAL from `startLsn` on, without end, following commitLsn. Ends when the signal fires. Rejects `notFound` (no such timeline
   * here yet), `invalid` (startLsn below what is held or past its end), `corrupt` (a stored segment is damaged: names it). What is not held any more but was
   * sent to the object store comes from there: `unavailable` if that is away.
   * `startLsn` is where a record ends. With a term (a proposer or a safekeeper that brings one up to date) also what is not committed yet, as long as the last
   * record here is of that term (logs of which that is so are the same): `fenced` after that.
   */
  readWal(id: TenantTimelineId, startLsn: Lsn, signal: AbortSignal, lastTerm?: number): AsyncIterable<WalChunk>;
  getStatus(id: TenantTimelineId): Promise<SafekeeperTimelineStatus | null>;
  /**
   * A pageserver says that it needs no WAL below `lsn`, the end of a record, any more, whatever happens to it: that is in the object store under an index that
   * no newer owner of the tenant has missed. A timeline that is not here is fine.
   */
  reportConsistent(id: TenantTimelineId, remoteConsistentLsn: Lsn): Promise<void>;
}

/** What a safekeeper has shown of a timeline, as one that saw it remembers. */
export interface RecalledTimeline {
  readonly id: TenantTimelineId;
  readonly term: number;
  readonly commitLsn: Lsn;
}

/** The answer to a safekeeper that begins: numbers of processes (PeerIncarnation in protocol/proposer-acceptor.ts). */
export interface PeerIntroduction {
  /** The asked one's; 0 if it has none. */
  readonly incarnation: number;
  /** The highest of the asking one that was known before; 0 if none was. */
  readonly known: number;
}

/** A safekeeper as other safekeepers of the same timelines see it. */
export interface SafekeeperPeer extends WalService {
  /** Safekeeper `node` has begun with this number. Whatever is answered to proposers after this resolves tells them so. Durable. */
  introduce(node: NodeId, incarnation: number): Promise<PeerIntroduction>;
  /** The most that safekeeper `node` has shown of each timeline that is here. */
  recall(node: NodeId): Promise<readonly RecalledTimeline[]>;
  /** All timelines that are stored there. Those that are damaged are left out. */
  describeTimelines(): Promise<readonly PeerTimelineInfo[]>;
}

/**
 * Immutable or swapped-whole objects under slash-separated keys. Layers are put once; the index is swapped by compare-and-set.
 * After `put` resolves, the object survives a crash of the host. A reader sees an old object or the new one, never a mixture.
 */
export interface ObjectStore {
  /**
   * Without a condition: overwrites. `ifAbsent`: rejects `invalid` if the key exists. `ifVersion`: rejects `fenced` unless the object's
   * version is this one. Returns the new version, an opaque string. A put that rejects `unavailable` may have happened, or may happen later; with a
   * condition only if that still holds then, but for `ifVersion` in a store whose server does not know it.
   */
  put(key: string, bytes: Uint8Array, condition?: { ifAbsent: true } | { ifVersion: string }): Promise<string>;
  /**
   * The object or a byte range of it ([start, end), clamped to its size), null if absent. A plain Uint8Array and no subclass of it, whose `slice` may be
   * the same memory. `fresh`: from where the truth is, and what copies are kept of that range are replaced; asked for by who found what was read damaged.
   */
  get(
    key: string,
    range?: { start: number; end: number },
    options?: { readonly fresh: boolean },
  ): Promise<{ bytes: Uint8Array; version: string } | null>;
  /** Size in bytes, null if absent. */
  head(key: string): Promise<{ size: number; version: string } | null>;
  /** Keys under a prefix with their sizes, sorted. */
  list(prefix: string): Promise<{ key: string; size: number }[]>;
  /** Names of the folders right under a folder ('' or ending in a slash), sorted: what comes before the next slash of keys that have one. */
  listFolders(folder: string): Promise<string[]>;
  /** Idempotent. */
  delete(key: string): Promise<void>;
}

/** Since the process began. */
export interface StagingCounters {
  /** Pieces of objects that were read from the store because a read wanted them. */
  readonly downloads: number;
  readonly downloadedBytes: number;
  /** Pieces that were given up for room. */
  readonly evictions: number;
  readonly uploads: number;
  readonly uploadedBytes: number;
}

/**
 * Where layers wait before they are in the object store, if that is far away: a local disk. What is staged is read through the ObjectStore that
 * this belongs to, and is lost with the disk: until it is uploaded, WAL is what it is made of again.
 */
export interface LayerStaging {
  /** Resolves when the object can be read here, memory or not. */
  stage(key: string, bytes: Uint8Array): Promise<void>;
  /** Sends a staged object to the store; resolves when it is durable there. Idempotent. */
  upload(key: string): Promise<void>;
  /** Of objects that are staged and not uploaded. */
  readonly stagedBytes: number;
  /** How many bytes of an object are on the local disk. */
  residentBytesOf(key: string): number;
  readonly counters: StagingCounters;
}

/**
 * Where ingest puts what a WAL record does. `lsn` is the record's end LSN and never goes down from call to call.
 * All byte arguments are copied before the call returns.
 */
export interface ValueSink {
  /** Copies the bytes of one WAL record once and returns a handle for `putRecord`, valid until the next `addRecord`. */
  addRecord(lsn: Lsn, bytes: Uint8Array, start: number, length: number): number;
  /** This page is changed by the record `handle`. */
  putRecord(prefix: KeyPrefix, block: number, lsn: Lsn, handle: number, willInit: boolean): void;
  /** A whole value; zero bytes are a tombstone. */
  putImage(prefix: KeyPrefix, block: number, lsn: Lsn, image: Uint8Array): void;
  /** A change that `applyPatch` (ingest/patch.ts) knows how to apply to the value before it. */
  putPatch(prefix: KeyPrefix, block: number, lsn: Lsn, patch: Uint8Array): void;
}

/** The newest reconstructed value of a key, including everything put so far; null if it does not exist. Looks through ancestors. */
export interface ValueReader {
  getImage(prefix: KeyPrefix, block: number): Promise<Uint8Array | null>;
}

/** Rebuilds one page of a relation. Records are complete WAL records, oldest first, `lsns[i]` the end LSN of `records[i]`. */
export interface RedoRequest {
  readonly rel: RelTag;
  readonly block: BlockNumber;
  /** The page before the first record; null if that record initialises it. */
  readonly base: Uint8Array | null;
  readonly lsns: readonly Lsn[];
  readonly records: readonly Uint8Array[];
}

/** Postgres's own rm_redo. Synchronous: the caller decides how much to do before it lets others run. */
export interface WalRedo {
  /** A new 8192-byte page. Throws `corrupt`, naming relation, block and LSN, if Postgres refuses a record; the next call works. */
  redoPage(request: RedoRequest): Uint8Array;
  /** Resolves when `redoPage` works: at once, or when an instance that a damaged record took down has been replaced. */
  ready(): Promise<void>;
  close(): Promise<void>;
}

/** A fresh data directory after a clean shutdown at `lsn`: what every tenant starts from. */
export interface TenantTemplate {
  readonly lsn: Lsn;
  readonly systemIdentifier: bigint;
  readonly files: readonly DataFile[];
}
