/**
 * R1. The parts of Emscripten's file system and module that are used here, as types. PGlite exposes both as `pg.Module` and in `preRun`.
 *
 * A node's `contents` and `kind` are ours; the rest is Emscripten's. `lookupNode` finds nodes by (parent id, name) in a table of its own and asks
 * `node_ops.lookup` only for names that it has not seen.
 */
import type { Relation } from '../pages/rel-size-cache.ts';
import type { LocalFile } from './local-file.ts';
import type { DatabaseFolder } from './path.ts';
import type { ScratchFile } from './scratch-file.ts';

/** What a node of our file system stands for. */
export type NodeKind =
  | { readonly type: 'folder'; readonly path: string; readonly database: DatabaseFolder | null }
  | { readonly type: 'file'; readonly file: LocalFile }
  | { readonly type: 'scratch'; readonly file: ScratchFile }
  | { readonly type: 'wal'; readonly startLsn: number }
  | { readonly type: 'relation'; readonly relation: Relation; readonly segment: number };

export interface FsNode {
  id: number;
  name: string;
  mode: number;
  rdev: number;
  parent: FsNode;
  mtime: number;
  ctime: number;
  atime: number;
  node_ops: object;
  stream_ops: object;
  // Ours
  kind: NodeKind;
  /** A folder's local entries. */
  entries: Map<string, FsNode>;
}

export interface FsStream {
  readonly node: FsNode;
  readonly fd: number | null;
  position: number;
}

export interface Stat {
  readonly dev: number;
  readonly ino: number;
  readonly mode: number;
  readonly nlink: number;
  readonly uid: number;
  readonly gid: number;
  readonly rdev: number;
  readonly size: number;
  readonly atime: { getTime(): number };
  readonly mtime: { getTime(): number };
  readonly ctime: { getTime(): number };
  readonly blksize: number;
  readonly blocks: number;
}

export interface EmscriptenFs {
  readonly ErrnoError: new (errno: number) => Error;
  createNode(parent: FsNode | null, name: string, mode: number, dev?: number): FsNode;
  destroyNode(node: FsNode): void;
  mkdirTree(path: string): void;
  mount(type: object, options: object, path: string): void;
  unmount(path: string): void;
  isDir(mode: number): boolean;
  isFile(mode: number): boolean;
  getStream(fd: number): FsStream | undefined;
}

export interface EmscriptenModule {
  readonly FS: EmscriptenFs;
  readonly HEAPU8: Uint8Array;
  readonly wasmMemory: WebAssembly.Memory;
  _malloc(bytes: number): number;
  _free(pointer: number): void;
  addFunction(work: (...args: number[]) => number, signature: string): number;
  stringToUTF8OnStack(text: string): number;
}

export type WasmExports = Readonly<Record<string, unknown>>;
