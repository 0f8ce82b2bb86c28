/**
 * The types of `pagelite/browser`: branches that a tab works on, wherever they are.
 *
 *   place    pages                                        WAL
 *   server   from the server, at an LSN                   to the server's safekeepers
 *   local    from the tab's own engine, over IndexedDB    to the tab's own safekeeper
 *   hybrid   as local; unchanged ones from the server     to the tab's own safekeeper
 *            branch that it began from, kept in IndexedDB
 *
 * LSNs are text, such as `0/16B5A50`. Every rejection is a PageliteError or an error of PostgreSQL's.
 */
import type { Extensions, PGliteInterface, PGliteInterfaceExtensions } from '@electric-sql/pglite';
import type { BranchHistory, HistoryPoint } from '../engine/protocol/control-api.ts';

export type { BranchHistory, HistoryPoint };

export type BranchPlace = 'server' | 'local' | 'hybrid';

/** What long work tells: a text for a person, and how far it is if that is known. */
export interface Progress {
  readonly text: string;
  readonly done?: number;
  readonly total?: number;
  readonly unit?: 'bytes' | 'pages' | 'layers';
}

export interface OpenOptions {
  /** Address of a Pagelite server (`npm start`, `pagelite start`), such as `http://127.0.0.1:9899`. Absent: no server, local branches only. */
  readonly server?: string;
  /** Name of the tab's own repository in IndexedDB; `pagelite` if absent. */
  readonly name?: string;
  /** Bytes that pages of server branches may take in IndexedDB. */
  readonly pageCacheBudgetBytes?: number;
  /** Asks the browser, when a branch is made in the tab, not to give its storage up when the disk is full; default true. Firefox asks its user. */
  readonly persist?: boolean;
  readonly progress?: (progress: Progress) => void;
}

export interface PointInTime {
  readonly lsn?: string;
  /** Everything committed until then. */
  readonly at?: Date;
}

export interface BranchInfo {
  readonly name: string;
  readonly place: BranchPlace;
  readonly timelineId: string;
  readonly ancestor: { readonly name: string | null; readonly place: BranchPlace; readonly lsn: string } | null;
  readonly startLsn: string | null;
  readonly lsn: string | null;
  /** Bytes of its own layers, on the server or in the tab. */
  readonly layerBytes: number | null;
  /** Of a local or hybrid branch: up to where the server has it, and under which name; null if it was not pushed. */
  readonly pushed: { readonly name: string; readonly lsn: string } | null;
  /** Of a hybrid branch: the server's pages that are here already. */
  readonly cachedPages: number | null;
  readonly broken: string | null;
}

export interface NewBranch extends PointInTime {
  /** The branch to start from. Absent: a new database, for a local branch. */
  readonly from?: string;
  /** Where `from` is, when the same name is in the tab and on the server. */
  readonly fromPlace?: 'server' | 'local';
  /** `server`: made there. `local` (default without a server): made here; from a server branch that is a hybrid one. */
  readonly place?: 'server' | 'local';
}

export interface ConnectOptions<E extends Extensions = Extensions> extends PointInTime {
  /** When the same name is in the tab and on the server. */
  readonly place?: 'server' | 'local';
  /** To write to a server branch that an endpoint of the server writes to: that one is fenced, and ends. Without it such a branch is refused. */
  readonly takeOver?: boolean;
  /** PGlite's own option, such as `live` or an extension that is not one of PostgreSQL's contrib modules: those are there without it. */
  readonly extensions?: E;
  /** PostgreSQL settings, such as `work_mem`. */
  readonly settings?: Readonly<Record<string, string>>;
  /** Memory for pages beside PostgreSQL's shared buffers. */
  readonly pageCacheBytes?: number;
  readonly username?: string;
  readonly database?: string;
}

/** Where pages came from since the connection was opened. */
export interface PageCounters {
  /** Read in PostgreSQL's files by the compute, from its own page cache. */
  readonly fromCache: number;
  /** From the tab's storage: its engine or its cache of server pages. */
  readonly fromTab: number;
  /** From the server. */
  readonly fromServer: number;
  readonly bytesFromServer: number;
}

/** A PGlite in a worker of this tab, on a branch. */
export interface BranchConnection extends PGliteInterface {
  readonly branch: string;
  readonly place: BranchPlace;
  /** Read-only connections stand at this LSN; null for writing. */
  readonly readOnlyLsn: string | null;
  /** By type: how values become JavaScript's. Those of arrays are learned from the database. */
  readonly parsers: Readonly<Record<number | string, (text: string, type: number) => unknown>>;
  pageCounters(): Promise<PageCounters>;
  /**
   * Ends it at once, in the midst of a statement too: what waits is rejected with `cancelled`, what was not committed is not there. A statement that was
   * about to commit may have done so. The branch can be connected to again.
   */
  terminate(): Promise<void>;
  /** Resolves if it ends without `close`: terminated, fenced by another writer, its storage gone. */
  readonly ended: Promise<Error>;
}

export interface PushOptions {
  /** Name on the server; the branch's own if absent. */
  readonly as?: string;
  readonly progress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

export interface PullOptions {
  readonly as?: string;
  readonly progress?: (progress: Progress) => void;
  readonly signal?: AbortSignal;
}

export interface StorageLayers {
  readonly inMemory: readonly { readonly startLsn: string; readonly endLsn: string | null }[];
  readonly files: readonly {
    readonly name: string;
    readonly bytes: number;
    readonly kind: 'delta' | 'image';
    readonly startLsn: string;
    readonly endLsn: string;
  }[];
}

/** `Pagelite.open(options)` of `pagelite/browser` gives one. */
export interface PageliteTab {
  /** Of the server and of the tab. Without the server, when it is away, those of the tab. */
  branches(): Promise<BranchInfo[]>;
  /** Makes a branch; nothing is copied. */
  branch(name: string, options?: NewBranch): Promise<BranchInfo>;
  connect<E extends Extensions = Record<string, never>>(
    branch: string,
    options?: ConnectOptions<E>,
  ): Promise<BranchConnection & PGliteInterfaceExtensions<E>>;
  /** Sends a local or hybrid branch to the server as a timeline of its own. Again: goes on where it was cut off, or sends what is new. */
  push(branch: string, options?: PushOptions): Promise<BranchInfo>;
  /** Takes a server branch here, with all its pages, so that it works offline. */
  pull(branch: string, options?: PullOptions): Promise<BranchInfo>;
  /** Back to the head of the branch it came from. */
  reset(branch: string, place?: 'server' | 'local'): Promise<BranchInfo>;
  delete(branch: string, place?: 'server' | 'local'): Promise<void>;
  /** When it was committed to. Before it began, that is the history of the branch it came from; of a branch in the tab, as far as the tab has that. */
  history(branch: string, place?: 'server' | 'local'): Promise<BranchHistory>;
  /** A moment of a branch's history: the last LSN with everything committed until then, and the branch that has it. */
  pointAt(branch: string, at: Date, place?: 'server' | 'local'): Promise<HistoryPoint>;
  layers(branch: string, place?: 'server' | 'local'): Promise<StorageLayers>;
  /** What the tab's repository takes, and may take, of this origin's storage. */
  storage(): Promise<{ readonly usedBytes: number; readonly quotaBytes: number; readonly cachedPages: number }>;
  close(): Promise<void>;
}
