/**
 * A compute: a PGlite whose storage is Pagelite's. Runs in a thread that may block; its I/O host (bridge/io-host.ts) runs in another.
 *
 * `openCompute` takes what the I/O host's `start` returned, or is going to, mounts the file system (vfs/pagelite-fs.ts) through PGlite's public
 * `fs` option, and returns the PGlite. Boot needs no recovery: the basebackup is a data directory after a clean shutdown at the boot LSN.
 *
 * Invariants
 * - the result is a PGlite; after its storage has failed for good (fenced, I/O host gone) every call throws that reason
 * - a bug in here poisons the compute: every later call throws it
 * - a read-only compute refuses to write, and nothing that PostgreSQL writes by itself there leaves it
 */
import { PGlite, type PGliteOptions, protocol } from '@electric-sql/pglite';
import { assert, must } from '../engine/assert.ts';
import { computeStartParams } from '../engine/basebackup/compute-params.ts';
import { messageOf, type PageliteError } from '../engine/errors.ts';
import type { TenantTimelineId } from '../engine/model/ids.ts';
import type { BlockNumber, RelTag } from '../engine/model/rel.ts';
import type { Log } from '../engine/services.ts';
import { BackendAbi } from './backend-abi.ts';
import type { ComputeBridge } from './bridge/compute-bridge.ts';
import type { ComputeStart } from './bridge/io-host.ts';
import { SyncBridge } from './bridge/sync-bridge.ts';
import { type FailedReads, reasonOf, withDetail } from './error-detail.ts';
import type { CacheCounters } from './pages/page-cache.ts';
import { PageStore } from './pages/page-store.ts';
import { MemorySpill, type SpillStore } from './pages/spill-store.ts';
import type { EmscriptenModule, WasmExports } from './vfs/emscripten.ts';
import { PageliteFs } from './vfs/pagelite-fs.ts';
import type { DatabaseFolder } from './vfs/path.ts';
import { WalTap } from './wal/wal-tap.ts';

const dataFolder = '/pglite/data';
const defaultCacheBytes = 128 * 1024 * 1024;
const willNeed = 3;

export interface ComputeOptions {
  /** Memory for pages beside PostgreSQL's shared buffers. */
  readonly pageCacheBytes?: number;
  /** Where pages go that must stay and have no room; memory if absent. Closed with the compute. */
  readonly spill?: SpillStore;
  /** The way to the I/O host of this start; shared memory if absent. */
  readonly openBridge?: (start: ComputeStart) => ComputeBridge;
  readonly extensions?: PGliteOptions['extensions'];
  /** PGlite's own files where the host has loaded them already. */
  readonly artefacts?: Pick<PGliteOptions, 'pgliteWasmModule' | 'initdbWasmModule' | 'fsBundle'>;
  readonly database?: string;
  readonly username?: string;
  /** Further PostgreSQL settings, `name=value`. */
  readonly settings?: readonly string[];
  readonly log?: Log;
  /** Lines of PostgreSQL's own log. */
  readonly onServerLog?: (line: string) => void;
  readonly pglite?: Pick<PGliteOptions, 'parsers' | 'serializers' | 'debug' | 'initialMemory'>;
  /** For who sends messages of the wire protocol and parses the answers: the database's array types are learned by `refreshArrayTypes`, not at boot. */
  readonly lateArrayTypes?: boolean;
}

/**
 * PostgreSQL's own 128 MB are written with zeros at every start, a third of it. What is not in these buffers is in the page cache, whose memory is
 * made as it is used, one copy away.
 */
const memorySettings = ['shared_buffers=32MB'];
/** Segments are not filled with zeros, kept or used again: they exist only to be streamed. */
const walSettings = ['wal_init_zero=off', 'wal_recycle=off', 'min_wal_size=32MB', 'autovacuum=off'];
/** The pageserver does not keep commit timestamps; a setting at the end wins over any before it and over ALTER SYSTEM. */
const fixedSettings = ['track_commit_timestamp=off'];
const readOnlySettings = ['default_transaction_read_only=on'];

export class Compute extends PGlite {
  readonly #storage: ComputeStorage;
  readonly #lateArrayTypes: boolean;
  #inBlock = false;

  private constructor(storage: ComputeStorage, options: PGliteOptions, lateArrayTypes: boolean) {
    super(options);
    this.#storage = storage;
    this.#lateArrayTypes = lateArrayTypes;
  }

  /** Use `openCompute`. */
  static async open(storage: ComputeStorage, options: PGliteOptions, lateArrayTypes = false): Promise<Compute> {
    const compute = new Compute(storage, options, lateArrayTypes);
    try {
      await compute.waitReady;
      storage.mounted.booted();
      return compute;
    } catch (error) {
      const { reason } = storage;
      storage.close();
      throw reason ?? error;
    }
  }

  override async _initArrayTypes(options: { force?: boolean } = {}): Promise<void> {
    if (!this.#lateArrayTypes || options.force) await super._initArrayTypes(options);
  }

  override execProtocolRawSync(message: Uint8Array): Uint8Array {
    this.#storage.throwIfFailed();
    if (mayCommit(message, this.#inBlock)) this.#storage.expectCommit();
    const { count } = this.failedReads;
    let answer = super.execProtocolRawSync(message);
    // A PANIC of the backend is swallowed by PGlite; why it panicked is known here.
    this.#storage.throwIfFailed();
    // To PostgreSQL it was an "I/O error".
    const { failedReads } = this;
    if (failedReads.count !== count) answer = withDetail(answer, failedReads.reason ?? '');
    // ReadyForQuery ends with the state of the transaction; 'I': there is none.
    if (answer.length >= 6 && answer[answer.length - 6] === 0x5a) this.#inBlock = answer[answer.length - 1] !== 0x49;
    return answer;
  }

  override execProtocol(...args: Parameters<PGlite['execProtocol']>): ReturnType<PGlite['execProtocol']> {
    return this.#explained(() => super.execProtocol(...args));
  }

  override execProtocolStream(
    ...args: Parameters<PGlite['execProtocolStream']>
  ): ReturnType<PGlite['execProtocolStream']> {
    return this.#explained(() => super.execProtocolStream(...args));
  }

  /** PGlite has parsed an error before its answer could be completed here: it gets its detail afterwards. */
  async #explained<T>(work: () => Promise<T>): Promise<T> {
    const before = this.failedReads.count;
    try {
      return await work();
    } catch (error) {
      const { count, reason } = this.failedReads;
      if (count !== before && reason !== null && error instanceof protocol.messages.DatabaseError) {
        (error as { detail: string | undefined }).detail ??= reason;
      }
      throw error;
    }
  }

  /** To PostgreSQL they are I/O errors. */
  get failedReads(): FailedReads {
    return this.#storage.failedReads;
  }

  /** One hop to the I/O host and back, for benchmarks. */
  pingHost(): void {
    this.#storage.mounted.ping();
  }

  /** Memory that this compute's own WAL takes. */
  get walBytesInMemory(): number {
    return this.#storage.mounted.walBytesInMemory;
  }

  /** Counters of the page cache. */
  get cacheCounters(): Readonly<CacheCounters> {
    return this.#storage.mounted.counters;
  }

  /** Pages that had to stay and found no room in the cache. */
  get spilledPages(): number {
    return this.#storage.mounted.spilledPages;
  }

  /** The relations of a database as this compute sees them, temporary ones aside: for checks. */
  relations(folder: DatabaseFolder): LocalRelation[] {
    return this.#storage.mounted.relations(folder);
  }

  /** A copy of a page if it is in the page cache: for checks. PostgreSQL's own buffers are there after a CHECKPOINT. */
  peekPage(rel: RelTag, block: BlockNumber): Uint8Array | null {
    return this.#storage.mounted.peekPage(rel, block);
  }
}

/** A relation fork as a compute sees it. */
export interface LocalRelation {
  readonly rel: RelTag;
  readonly size: BlockNumber;
  /** Made by this compute since it booted. */
  readonly created: boolean;
  /** Exists only in this compute. */
  readonly localOnly: boolean;
}

/**
 * Whether this message of the wire protocol is likely to commit: Sync outside of a transaction block, or COMMIT or END as the text of Query or of an
 * unnamed Parse. A guess that costs or saves some microseconds.
 */
function mayCommit(message: Uint8Array, inBlock: boolean): boolean {
  switch (message[0]) {
    case 0x53: // 'S'
      return !inBlock;
    case 0x51: // 'Q'
      return isCommitLetter(message[5]);
    case 0x50: // 'P'
      return message[5] === 0 && isCommitLetter(message[6]);
    default:
      return false;
  }
}

/** C or E. */
const isCommitLetter = (byte: number | undefined): boolean =>
  byte === 0x43 || byte === 0x63 || byte === 0x45 || byte === 0x65;

/** A start that is still on its way: the host holds its election and fetches the basebackup while PGlite loads. */
export interface ComingStart {
  readonly readOnly: boolean;
  readonly start: Promise<ComputeStart>;
}

/** Rejects with what `start` rejects with, and with the first error of its storage. */
export async function openCompute(start: ComputeStart | ComingStart, options: ComputeOptions = {}): Promise<Compute> {
  const storage = new ComputeStorage('start' in start ? start.start : Promise.resolve(start), options);
  const settings = [
    ...memorySettings,
    ...walSettings,
    ...(start.readOnly ? readOnlySettings : []),
    ...(options.settings ?? []),
    ...fixedSettings,
  ];
  const pgliteOptions: PGliteOptions = {
    ...options.artefacts,
    ...options.pglite,
    ...(options.extensions === undefined ? {} : { extensions: options.extensions }),
    ...(options.database === undefined ? {} : { database: options.database }),
    ...(options.username === undefined ? {} : { username: options.username }),
    startParams: computeStartParams(settings),
    fs: storage,
  };
  return Compute.open(storage, pgliteOptions, options.lateArrayTypes);
}

type Filesystem = NonNullable<PGliteOptions['fs']>;
type Imports = { readonly env: Record<string, unknown> };
type Instantiated = (instance: WebAssembly.Instance, module: unknown) => void;
/** Emscripten's module options: PGlite declares them as its whole module, of which only some are set. */
// biome-ignore lint/suspicious/noExplicitAny: the border to PGlite
type EmscriptenOptions = any;

/** PGlite's `fs` option: mounts the file system once there is what to mount. */
class ComputeStorage implements Filesystem {
  readonly #start: Promise<ComputeStart>;
  readonly #options: ComputeOptions;
  #exports: WasmExports | null = null;
  #module: EmscriptenModule | null = null;
  #memory: WebAssembly.Memory | null = null;
  #mounted: MountedStorage | null = null;
  #closed = false;

  constructor(start: Promise<ComputeStart>, options: ComputeOptions) {
    this.#start = start;
    this.#options = options;
    // Whoever awaits it in `initialSyncFs` hears of a failure; until then it is not an unhandled one.
    start.catch(() => {});
  }

  get mounted(): MountedStorage {
    return must(this.#mounted);
  }

  /** Why it cannot go on, or what went wrong last: PostgreSQL itself only says "I/O error". */
  get reason(): PageliteError | null {
    return this.#mounted?.failure ?? this.#mounted?.lastError ?? null;
  }

  get failedReads(): FailedReads {
    const { reason } = this;
    const count = this.#mounted?.errorCount ?? 0;
    return { count, reason: reason === null ? null : reasonOf(reason, must(this.#mounted).id) };
  }

  throwIfFailed(): void {
    if (!this.#closed) this.#mounted?.throwIfFailed();
  }

  expectCommit(): void {
    this.#mounted?.expectCommit();
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#mounted) this.#mounted.close();
    else this.#options.spill?.close();
  }

  // Filesystem of PGlite

  async init(_pg: PGlite, options: EmscriptenOptions): Promise<{ emscriptenOpts: EmscriptenOptions }> {
    const instantiate = options.instantiateWasm as (imports: Imports, done: Instantiated) => unknown;
    const { onServerLog } = this.#options;
    this.#memory = options.wasmMemory;
    const emscriptenOpts = {
      ...options,
      instantiateWasm: (imports: Imports, done: Instantiated) => {
        this.#wrapFadvise(imports.env);
        return instantiate(imports, (instance: WebAssembly.Instance, module: unknown) => {
          this.#exports = instance.exports;
          done(instance, module);
        });
      },
      preRun: [
        ...(options.preRun ?? []),
        (module: EmscriptenModule) => {
          this.#module = module;
        },
      ],
    };
    if (onServerLog) {
      emscriptenOpts.printErr = onServerLog;
      emscriptenOpts.print = onServerLog;
    }
    return { emscriptenOpts };
  }

  /** The module is loaded and PostgreSQL has not begun. */
  async initialSyncFs(): Promise<void> {
    const start = await this.#start;
    const backend = new BackendAbi(must(this.#exports), must(this.#memory));
    this.#mounted = new MountedStorage(start, this.#options, must(this.#module), backend);
  }

  async syncToFs(): Promise<void> {}

  async closeFs(): Promise<void> {
    this.close();
  }

  async dumpTar(): Promise<Blob> {
    throw new Error('a branch is not dumped as a data directory: use pg_dump');
  }

  #wrapFadvise(env: Record<string, unknown>): void {
    const original = env.__syscall_fadvise64 as (fd: number, offset: bigint, length: bigint, advice: number) => number;
    env.__syscall_fadvise64 = (fd: number, offset: bigint, length: bigint, advice: number): number => {
      if (advice === willNeed) this.#mounted?.willNeed(fd, Number(offset), Number(length));
      return original(fd, offset, length, advice);
    };
  }
}

/** The mounted file system and what is behind it. */
class MountedStorage {
  readonly #start: ComputeStart;
  readonly #log: Log | undefined;
  readonly #module: EmscriptenModule;
  readonly #backend: BackendAbi;
  readonly #bridge: ComputeBridge;
  readonly #spill: SpillStore;
  readonly #pages: PageStore;
  readonly #wal: WalTap;
  readonly #fs: PageliteFs;
  /** The last error of a read. */
  lastError: PageliteError | null = null;
  errorCount = 0;
  /** A broken invariant in here. PGlite swallows what is thrown through PostgreSQL, so it is kept. */
  #bug: unknown = null;

  constructor(start: ComputeStart, options: ComputeOptions, module: EmscriptenModule, backend: BackendAbi) {
    this.#start = start;
    this.#log = options.log;
    this.#module = module;
    this.#backend = backend;
    this.#bridge = options.openBridge?.(start) ?? new SyncBridge(must(start.bridge, 'shared memory'));
    this.#spill = options.spill ?? new MemorySpill();
    this.#pages = new PageStore({
      bridge: this.#bridge,
      bootLsn: start.lsn,
      readOnly: start.readOnly,
      cacheBytes: options.pageCacheBytes ?? defaultCacheBytes,
      spill: this.#spill,
      currentXid: () => backend.currentXid(),
      insertedRecords: () => backend.insertedRecords(),
      flushWal: () => backend.flushWal(this.#wal.endLsn),
    });
    this.#wal = new WalTap({
      bridge: this.#bridge,
      startLsn: start.lsn,
      bootWal: start.bootWal,
      discard: start.readOnly,
      onFlushed: (lsn, records) => {
        // The record that switches segments is flushed while it is inserted, before it is counted (XLogInsertRecord).
        const inserted = backend.insertedRecords() + 1;
        assert(records <= inserted, 'more WAL records were written than inserted');
        this.#pages.flushed(lsn, records);
      },
    });
    for (const pages of start.prewarm) this.#pages.prewarm(pages);
    this.#fs = new PageliteFs({
      module,
      pages: this.#pages,
      wal: this.#wal,
      files: start.files,
      onError: (error, path) => this.#failed(error, path),
      onBug: (error) => {
        this.#bug ??= error;
      },
    });
    module.FS.mkdirTree(dataFolder);
    this.#fs.mount(dataFolder);
  }

  get id(): TenantTimelineId {
    return this.#start.id;
  }

  get failure(): PageliteError | null {
    return this.#bridge.failure;
  }

  get counters(): Readonly<CacheCounters> {
    return this.#pages.cache.counters;
  }

  get spilledPages(): number {
    return this.#pages.cache.spilledCount;
  }

  get walBytesInMemory(): number {
    return this.#wal.bytesInMemory;
  }

  relations(folder: DatabaseFolder): LocalRelation[] {
    const named = [...this.#pages.relations.list(folder)].filter(({ temporaryName }) => temporaryName === null);
    return named.map(({ relation: { spc, db, rel, fork, blocks, created, localOnly } }) => ({
      rel: { spc, db, rel, fork },
      size: blocks,
      created,
      localOnly,
    }));
  }

  peekPage({ spc, db, rel, fork }: RelTag, block: BlockNumber): Uint8Array | null {
    return this.#pages.peek(this.#pages.relations.find({ spc, db }, rel, fork), block);
  }

  ping(): void {
    this.#bridge.ping();
  }

  /** If there is a transaction that has written. */
  expectCommit(): void {
    if (!this.#start.readOnly && this.#backend.currentXid() !== 0) this.#bridge.expectCommit();
  }

  willNeed(fd: number, offset: number, length: number): void {
    this.#fs.willNeed(fd, offset, length);
  }

  throwIfFailed(): void {
    if (this.#bug !== null) throw this.#bug;
    const { failure } = this.#bridge;
    if (failure !== null) throw failure;
  }

  /** PostgreSQL runs. */
  booted(): void {
    this.#backend.checkLayout();
    if (!this.#start.readOnly) return;
    for (const name of ['default_transaction_read_only', 'transaction_read_only']) {
      this.#backend.lockOn(name, this.#module);
    }
  }

  close(): void {
    this.#bridge.bye();
    this.#spill.close();
  }

  #failed(error: unknown, path: string): void {
    this.lastError = error as PageliteError;
    this.errorCount++;
    this.#log?.error('storage failed', { path, ...this.#start.id, ...this.lastError.data, error: messageOf(error) });
  }
}
