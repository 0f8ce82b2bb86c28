/**
 * Pagelite as a library: a repository in a folder, opened inside this process. `import { Pagelite } from 'pagelite'`.
 *
 * The storage (pageserver, safekeeper, WAL redo, an I/O host for each compute) runs in one worker thread; each `connect` opens a compute, a PGlite,
 * in the caller's thread, which blocks for as long as a page or a commit takes, as any PGlite blocks on its files.
 *
 * Invariants
 * - a commit that has resolved is on disk; a process that ends without `close` loses nothing
 * - one process opens a folder at a time; the same folder can be served by `pagelite dev` or `pagelite start` before and after
 */
import { resolve } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { Extensions, PGlite, PGliteInterfaceExtensions, PGliteOptions } from '@electric-sql/pglite';
import { PageliteError } from '../../engine/errors.ts';
import { parseLsn } from '../../engine/model/lsn.ts';
import type { BranchHistory } from '../../engine/protocol/control-api.ts';
import { openCompute } from '../../smgr-plugin/compute.ts';
import { FileSpill } from '../compute/file-spill.ts';
import { branchNameDefault } from '../control-plane/branches.ts';
import type { BranchStart } from '../control-plane/branching.ts';
import { loadPGliteArtefacts, type PGliteArtefacts } from '../process/pglite-artefacts.ts';
import type { BranchInfo, StorageEvent, StorageMethods, StorageWorkerData } from './storage-worker.ts';
import { RpcClient } from './worker-rpc.ts';

export { type ErrorData, type ErrorKind, PageliteError } from '../../engine/errors.ts';
export type { BranchHistory, BranchInfo };

export interface OpenOptions {
  /** Told what takes long: the first use of a folder runs initdb, once, for some seconds. */
  readonly progress?: (text: string) => void;
}

/** A place in a branch's history: an LSN such as `0/16B5A50`, or a moment. */
export interface PointInTime {
  readonly lsn?: string;
  /** Everything committed until then; a string is an LSN. */
  readonly at?: Date | string;
}

export interface BranchOptions extends PointInTime {
  /** The branch to start from; `main` if absent. Without a point in time, from its end. */
  readonly from?: string;
}

/** Without a point in time: the end of the branch that it was made from. With one: a point of the branch's history. */
export interface ResetOptions extends PointInTime {
  /** The name that the old head keeps; `<branch>_old_<time>` if absent. */
  readonly preserveAs?: string;
}

export interface DumpOptions extends PointInTime {
  /** PGlite's own option; `gzip` if absent. */
  readonly compression?: 'gzip' | 'none';
}

export interface ConnectOptions<E extends Extensions = Extensions>
  extends PointInTime,
    Pick<PGliteOptions, 'parsers' | 'serializers' | 'debug' | 'initialMemory' | 'username' | 'database'> {
  /** PGlite extensions, as PGlite's own option. */
  readonly extensions?: E;
  /** PostgreSQL settings, such as `work_mem`. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Memory for pages beside PostgreSQL's shared buffers; 128 MiB if absent. */
  readonly pageCacheBytes?: number;
}

export class Pagelite {
  readonly dir: string;
  readonly #artefacts: PGliteArtefacts;
  readonly #storage: RpcClient<StorageMethods, StorageEvent>;
  readonly #open = new Set<PGlite>();
  #closing: Promise<void> | null = null;

  private constructor(dir: string, artefacts: PGliteArtefacts, options: OpenOptions) {
    this.dir = dir;
    this.#artefacts = artefacts;
    const workerData: StorageWorkerData = { dir, artefacts };
    const worker = new Worker(new URL('./storage-worker.js', import.meta.url), { workerData, execArgv: [] });
    this.#storage = new RpcClient(worker, (event) => {
      if (event.kind === 'progress') options.progress?.(event.text);
    });
  }

  /** Opens the repository in `dir`; a folder without one gets it, with a branch `main`. Throws `invalid` while it is in use. */
  static async open(dir: string, options: OpenOptions = {}): Promise<Pagelite> {
    const lite = new Pagelite(resolve(dir), await loadPGliteArtefacts(), options);
    try {
      await lite.#storage.call('open');
      return lite;
    } catch (error) {
      await lite.#storage.terminate();
      throw error;
    }
  }

  branches(): Promise<BranchInfo[]> {
    return this.#storage.call('branches');
  }

  /** Makes a branch; nothing is copied. Throws `invalid` for a name that is taken or a place that `from` does not have. */
  async branch(name: string, options: BranchOptions = {}): Promise<BranchInfo> {
    return this.#storage.call('branch', name, options.from ?? branchNameDefault, placeOf(options));
  }

  /** Begins the branch anew; what it was stays as another branch. Throws `invalid` while it is connected for writing. */
  async reset(branch: string, options: ResetOptions = {}): Promise<BranchInfo> {
    return this.#storage.call('reset', branch, { start: placeOf(options), preserveAs: options.preserveAs ?? null });
  }

  rename(branch: string, to: string): Promise<BranchInfo> {
    return this.#storage.call('rename', branch, to);
  }

  /** Throws `invalid` while it is connected or other branches are made from it. */
  delete(branch: string): Promise<void> {
    return this.#storage.call('delete', branch);
  }

  /** Some of the commits of a branch and, before it was made, of those that it was made from: places to branch from or to look at. */
  history(branch: string): Promise<BranchHistory> {
    return this.#storage.call('history', branch);
  }

  /**
   * Makes a branch of a PGlite database: the path of its data directory or of a tarball, or what its `dumpDataDir()` gave. The directory is only read; one
   * that was not closed is copied, and PostgreSQL recovers the copy.
   */
  importDataDir(branch: string, source: string | Blob): Promise<BranchInfo> {
    return this.#storage.call(
      'importDataDir',
      branch,
      typeof source === 'string' ? resolve(source) : new Blob([source]),
    );
  }

  /** The branch as a tarball that PGlite takes as its `loadDataDir` option, as PGlite's own `dumpDataDir` gives it. It is in memory as a whole. */
  async dumpDataDir(branch: string, options: DumpOptions = {}): Promise<File> {
    const isCompressed = options.compression !== 'none';
    const blob = await this.#storage.call('dumpDataDir', branch, placeOf(options), isCompressed);
    const type = isCompressed ? 'application/x-gzip' : 'application/x-tar';
    return new File([blob], `${branch.replaceAll('/', '-')}${isCompressed ? '.tar.gz' : '.tar'}`, { type });
  }

  /** The same into a file, for databases of any size. What was at `path` is replaced when the file is whole; one that ends in .tar is not compressed. */
  exportDataDir(branch: string, path: string, options: PointInTime = {}): Promise<void> {
    return this.#storage.call('exportDataDir', branch, placeOf(options), !path.endsWith('.tar'), resolve(path));
  }

  /**
   * A PGlite on a branch: for writing, or read-only at a point in time. A branch is connected for writing once at a time; several branches, and
   * read-only ones beside them, can be open together.
   */
  async connect<E extends Extensions = Record<never, never>>(
    branch: string,
    options: ConnectOptions<E> = {},
  ): Promise<PGlite & PGliteInterfaceExtensions<E>> {
    const place = placeOf(options);
    const opening = this.#storage.call('openCompute', branch, place);
    const close = async (): Promise<void> => {
      await this.#storage.call('closeCompute', (await opening).compute);
    };
    try {
      const pg = await openCompute(
        { readOnly: place !== 'end', start: opening.then(({ start }) => start) },
        { artefacts: this.#artefacts, spill: new FileSpill(), ...computeOptions(options) },
      );
      this.#open.add(pg);
      onClose(pg, async () => {
        this.#open.delete(pg);
        await close();
      });
      return pg as unknown as PGlite & PGliteInterfaceExtensions<E>;
    } catch (error) {
      // What could not be opened needs no closing.
      await opening.then(close, () => {});
      throw error;
    }
  }

  /** Closes every connection and the storage. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #close(): Promise<void> {
    for (const pg of [...this.#open]) if (!pg.closed) await pg.close();
    await this.#storage.call('close');
    await this.#storage.terminate();
  }
}

function placeOf({ lsn, at }: PointInTime): BranchStart {
  if (lsn !== undefined && at !== undefined) throw new PageliteError('invalid', 'give lsn or at, not both');
  const place = lsn ?? at;
  if (place === undefined) return 'end';
  if (typeof place === 'string') return { lsn: parseLsn(place) };
  if (Number.isNaN(place.getTime())) throw new PageliteError('invalid', 'at is an invalid Date');
  return { timestampMs: place.getTime() };
}

function computeOptions({ settings = {}, pageCacheBytes, extensions, ...options }: ConnectOptions) {
  const { username, database, parsers, serializers, debug, initialMemory } = options;
  return {
    settings: Object.entries(settings).map(([name, value]) => `${name}=${value}`),
    ...(pageCacheBytes !== undefined && { pageCacheBytes }),
    ...(extensions !== undefined && { extensions }),
    ...(username !== undefined && { username }),
    ...(database !== undefined && { database }),
    pglite: {
      ...(parsers !== undefined && { parsers }),
      ...(serializers !== undefined && { serializers }),
      ...(debug !== undefined && { debug }),
      ...(initialMemory !== undefined && { initialMemory }),
    },
  };
}

/** Runs `after` once `pg` has been closed by whoever does it. */
function onClose(pg: PGlite, after: () => Promise<void>): void {
  const close = pg.close.bind(pg);
  pg.close = async () => {
    try {
      await close();
    } finally {
      await after();
    }
  };
}
