/**
 * R1, W1. The Emscripten file system that is mounted on PostgreSQL's data directory.
 *
 * PostgreSQL reads and writes files; here its files become what they stand for: a relation's file a range of remote pages (pages/page-store.ts),
 * a WAL segment the stream to the safekeepers (wal/wal-tap.ts), everything else bytes in memory that came with the basebackup. The only
 * file that knows what Emscripten expects of a file system.
 *
 * Invariants
 * - a relation's file exists exactly when the relation has that segment; look-ups of others are ENOENT, never an empty file
 * - a failed read is EIO and costs the statement, a failed WAL sync is EIO and PostgreSQL panics; `onError` hears the reason
 * - symbolic links and folders below pg_tblspc are refused: there are no tablespaces
 */
import { isPageliteError } from '../../engine/errors.ts';
import { pageSize, relSegmentBlocks } from '../../engine/limits.ts';
import type { DataFile } from '../../engine/services.ts';
import { parseSegmentFileName, segmentFileName } from '../../engine/wal/wal-page.ts';
import type { PageStore } from '../pages/page-store.ts';
import type { Relation } from '../pages/rel-size-cache.ts';
import type { WalTap } from '../wal/wal-tap.ts';
import type { EmscriptenFs, EmscriptenModule, FsNode, FsStream, NodeKind, Stat } from './emscripten.ts';
import { errno } from './errno.ts';
import { LocalFile } from './local-file.ts';
import { type DatabaseFolder, formatRelationFileName, parseDatabaseFolder, parseRelationFileName } from './path.ts';
import { ScratchFile } from './scratch-file.ts';

const folderMode = 0o40700;
const fileMode = 0o100600;
const walFolder = 'pg_wal';
const scratchFolder = /^base\/pgsql_tmp(?:\/|$)/;
const segmentBytes = relSegmentBlocks * pageSize;
const writeToMap = 2;

export interface PageliteFsOptions {
  readonly module: EmscriptenModule;
  readonly pages: PageStore;
  readonly wal: WalTap;
  readonly files: readonly DataFile[];
  readonly onError: (error: unknown, path: string) => void;
  /** Something threw that is no error of storage. */
  readonly onBug: (error: unknown) => void;
}

interface Attributes {
  readonly mode?: number;
  readonly size?: number;
  readonly mtime?: number;
}

export class PageliteFs {
  readonly #fs: EmscriptenFs;
  readonly #module: EmscriptenModule;
  readonly #pages: PageStore;
  readonly #wal: WalTap;
  readonly #onError: (error: unknown, path: string) => void;
  readonly #nodeOps: object;
  readonly #streamOps: object;
  readonly #options: PageliteFsOptions;
  #heap = new Uint8Array(0);

  constructor(options: PageliteFsOptions) {
    this.#options = options;
    this.#module = options.module;
    this.#fs = options.module.FS;
    this.#pages = options.pages;
    this.#wal = options.wal;
    this.#onError = options.onError;
    this.#nodeOps = this.#makeNodeOps();
    this.#streamOps = this.#makeStreamOps();
  }

  /** Mounts it on `path`, with the basebackup's files in it. */
  mount(path: string): void {
    const root = this.#node(null, '/', folderMode, { type: 'folder', path: '', database: null });
    this.#fs.mount({ mount: () => root }, {}, path);
    // Nodes take their mount from their parent, and the root has it only now.
    for (const { path, bytes } of this.#options.files) this.#addFile(root, path, bytes);
    const wal = this.#folder(root, walFolder);
    for (const startLsn of this.#wal.bootSegments) {
      this.#node(wal, segmentFileName(startLsn), fileMode, { type: 'wal', startLsn });
    }
  }

  /** PostgreSQL's posix_fadvise(WILLNEED) on a file. */
  willNeed(fd: number, offset: number, length: number): void {
    const kind = this.#fs.getStream(fd)?.node.kind;
    if (kind?.type !== 'relation') return;
    const first = kind.segment * relSegmentBlocks + Math.floor(offset / pageSize);
    for (let i = 0; i * pageSize < length; i++) this.#pages.announce(kind.relation, first + i);
  }

  // Nodes

  #addFile(root: FsNode, path: string, bytes: Uint8Array | null): void {
    if (bytes === null) {
      this.#folder(root, path);
      return;
    }
    const slash = path.lastIndexOf('/');
    const parent = slash < 0 ? root : this.#folder(root, path.slice(0, slash));
    this.#node(parent, path.slice(slash + 1), fileMode, { type: 'file', file: LocalFile.of(bytes) });
  }

  #folder(root: FsNode, path: string): FsNode {
    let node = root;
    for (const name of path.split('/')) {
      node = node.entries.get(name) ?? this.#newFolder(node, name);
    }
    return node;
  }

  #newFolder(parent: FsNode, name: string): FsNode {
    const path = pathIn(parent, name);
    return this.#node(parent, name, folderMode, { type: 'folder', path, database: parseDatabaseFolder(path) });
  }

  #node(parent: FsNode | null, name: string, mode: number, kind: NodeKind): FsNode {
    const node = this.#fs.createNode(parent, name, mode, 0);
    node.node_ops = this.#nodeOps;
    node.stream_ops = this.#streamOps;
    node.kind = kind;
    node.entries = new Map();
    // A relation's file is not an entry: whether it exists is the relation's to know.
    if (parent !== null && kind.type !== 'relation') parent.entries.set(name, node);
    return node;
  }

  #error(number: number): Error {
    return new this.#fs.ErrnoError(number);
  }

  /** Runs what may fail far away. */
  #guard<T>(node: FsNode, work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw this.#asErrno(error, node);
    }
  }

  #asErrno(error: unknown, node: FsNode): unknown {
    if (error instanceof this.#fs.ErrnoError) return error;
    if (!isPageliteError(error)) {
      // What unwinds PostgreSQL itself (an ERROR in a call back into it) passes; it is Emscripten's own.
      if (error instanceof Error && !('status' in error)) this.#options.onBug(error);
      return error;
    }
    this.#onError(error, node.name);
    return this.#error(errno.EIO);
  }

  /** The relation that a name in a database's folder stands for; null if it is no relation's. */
  #relationOf(database: DatabaseFolder, name: string): { relation: Relation; segment: number } | null {
    const file = parseRelationFileName(name);
    if (file === null) return null;
    const { relations } = this.#pages;
    const relation =
      file.backend === null
        ? relations.find(database, file.rel, file.fork)
        : relations.findTemporary(database, formatRelationFileName({ ...file, segment: 0 }), file.rel, file.fork);
    return { relation, segment: file.segment };
  }

  #makeNodeOps(): object {
    return {
      getattr: (node: FsNode) => this.#stat(node),
      setattr: (node: FsNode, attributes: Attributes) => this.#setAttributes(node, attributes),
      lookup: (parent: FsNode, name: string) => this.#lookup(parent, name),
      mknod: (parent: FsNode, name: string, mode: number) => this.#make(parent, name, mode),
      rename: (node: FsNode, folder: FsNode, name: string) => this.#rename(node, folder, name),
      unlink: (parent: FsNode, name: string) => this.#unlink(parent, name),
      rmdir: (parent: FsNode, name: string) => this.#removeFolder(parent, name),
      readdir: (node: FsNode) => this.#list(node),
      symlink: () => {
        throw this.#error(errno.EPERM);
      },
      readlink: () => {
        throw this.#error(errno.EINVAL);
      },
    };
  }

  #stat(node: FsNode): Stat {
    const size = this.#size(node);
    return {
      dev: 1,
      ino: node.id,
      mode: node.mode,
      nlink: 1,
      uid: 0,
      gid: 0,
      rdev: 0,
      size,
      atime: timeOf(node.atime),
      mtime: timeOf(node.mtime),
      ctime: timeOf(node.ctime),
      blksize: pageSize,
      blocks: Math.ceil(size / 512),
    };
  }

  #size(node: FsNode): number {
    const { kind } = node;
    switch (kind.type) {
      case 'folder':
        return 4096;
      case 'file':
      case 'scratch':
        return kind.file.size;
      case 'wal':
        return this.#wal.segment(kind.startLsn).size;
      case 'relation':
        return kind.relation.segmentBlocks(kind.segment) * pageSize;
    }
  }

  #setAttributes(node: FsNode, { mode, size, mtime }: Attributes): void {
    if (typeof mode === 'number') node.mode = mode;
    if (typeof mtime === 'number') node.mtime = mtime;
    if (typeof size !== 'number') return;
    const { kind } = node;
    switch (kind.type) {
      case 'file':
        kind.file.truncate(size);
        break;
      case 'scratch':
        this.#guard(node, () => kind.file.truncate(size));
        break;
      case 'relation':
        this.#guard(node, () => this.#truncateRelation(kind.relation, kind.segment, size));
        break;
      default:
        throw this.#error(errno.EINVAL);
    }
  }

  #truncateRelation(relation: Relation, segment: number, size: number): void {
    if (size % pageSize !== 0) throw this.#error(errno.EINVAL);
    const first = segment * relSegmentBlocks;
    // An emptied file of a later segment does not make the relation longer than it was.
    const blocks = size === 0 ? Math.min(relation.blocks, first) : first + size / pageSize;
    this.#pages.truncate(relation, blocks);
  }

  #lookup(parent: FsNode, name: string): FsNode {
    const { kind } = parent;
    if (kind.type !== 'folder' || kind.database === null) throw this.#error(errno.ENOENT);
    const database = kind.database;
    const found = this.#guard(parent, () => this.#relationOf(database, name));
    if (found === null || !hasSegment(found.relation, found.segment)) throw this.#error(errno.ENOENT);
    return this.#node(parent, name, fileMode, { type: 'relation', ...found });
  }

  #make(parent: FsNode, name: string, mode: number): FsNode {
    const { kind } = parent;
    if (kind.type !== 'folder') throw this.#error(errno.ENOTDIR);
    if (kind.path === 'pg_tblspc') throw this.#error(errno.EPERM);
    if (this.#fs.isDir(mode)) {
      const folder = this.#newFolder(parent, name);
      if (folder.kind.type === 'folder' && folder.kind.database) {
        this.#pages.relations.createDatabase(folder.kind.database);
      }
      return folder;
    }
    if (!this.#fs.isFile(mode)) throw this.#error(errno.EINVAL);
    const database = kind.database;
    const found = database && this.#guard(parent, () => this.#relationOf(database, name));
    if (found) {
      const { relation, segment } = found;
      if (segment === 0) this.#guard(parent, () => this.#pages.create(relation));
      else relation.segments = Math.max(relation.segments, segment + 1);
      return this.#node(parent, name, mode, { type: 'relation', ...found });
    }
    if (scratchFolder.test(kind.path)) {
      return this.#node(parent, name, mode, { type: 'scratch', file: new ScratchFile(this.#pages) });
    }
    const startLsn = kind.path === walFolder ? parseSegmentFileName(name) : null;
    if (startLsn === null) return this.#node(parent, name, mode, { type: 'file', file: new LocalFile() });
    this.#wal.segment(startLsn);
    return this.#node(parent, name, mode, { type: 'wal', startLsn });
  }

  #rename(node: FsNode, folder: FsNode, name: string): void {
    const { kind } = node;
    const target = folder.kind;
    if (kind.type === 'relation' || target.type !== 'folder') throw this.#error(errno.EINVAL);
    if (target.database !== null && parseRelationFileName(name) !== null) throw this.#error(errno.EINVAL);
    node.parent.entries.delete(node.name);
    node.name = name;
    folder.entries.set(name, node);
    const startLsn = target.path === walFolder ? parseSegmentFileName(name) : null;
    if (kind.type === 'wal') {
      // Recycled as a later segment, or put away under another name.
      const file = new LocalFile();
      file.truncate(this.#wal.segment(kind.startLsn).size);
      this.#wal.remove(kind.startLsn);
      node.kind = startLsn === null ? { type: 'file', file } : { type: 'wal', startLsn };
      if (startLsn !== null) this.#wal.segment(startLsn, file);
    } else if (kind.type === 'file' && startLsn !== null) {
      this.#wal.segment(startLsn, kind.file);
      node.kind = { type: 'wal', startLsn };
    }
  }

  #unlink(parent: FsNode, name: string): void {
    const local = parent.entries.get(name);
    if (local !== undefined) {
      parent.entries.delete(name);
      if (local.kind.type === 'wal') this.#wal.remove(local.kind.startLsn);
      if (local.kind.type === 'scratch') local.kind.file.remove();
      return;
    }
    const { kind } = parent;
    if (kind.type !== 'folder' || kind.database === null) throw this.#error(errno.ENOENT);
    const found = this.#relationOf(kind.database, name);
    if (found === null) throw this.#error(errno.ENOENT);
    const { relation, segment } = found;
    if (segment === 0) this.#pages.remove(relation);
    else relation.segments = Math.min(relation.segments, segment);
  }

  #removeFolder(parent: FsNode, name: string): void {
    const node = parent.entries.get(name);
    if (node === undefined) throw this.#error(errno.ENOENT);
    if (this.#list(node).length > 2) throw this.#error(errno.ENOTEMPTY);
    parent.entries.delete(name);
  }

  #list(node: FsNode): string[] {
    const { kind } = node;
    if (kind.type !== 'folder') throw this.#error(errno.ENOTDIR);
    const names = ['.', '..', ...node.entries.keys()];
    const { database } = kind;
    if (database === null) return names;
    return this.#guard(node, () => {
      for (const { relation, temporaryName } of this.#pages.relations.list(database)) {
        const { rel, fork } = relation;
        const first = temporaryName ?? formatRelationFileName({ backend: null, rel, fork, segment: 0 });
        for (let segment = 0; segment < relation.segments; segment++) {
          names.push(segment === 0 ? first : `${first}.${segment}`);
        }
      }
      return names;
    });
  }

  // Streams

  #makeStreamOps(): object {
    return {
      read: (stream: FsStream, buffer: ArrayBufferView, offset: number, length: number, position: number) =>
        this.#read(stream.node, this.#bytesOf(buffer), offset, length, position),
      write: (stream: FsStream, buffer: ArrayBufferView, offset: number, length: number, position: number) =>
        this.#write(stream.node, this.#bytesOf(buffer), offset, length, position),
      llseek: (stream: FsStream, offset: number, whence: number) => this.#seek(stream, offset, whence),
      fsync: (stream: FsStream) => this.#sync(stream.node),
      mmap: (stream: FsStream, length: number, position: number) => this.#map(stream, length, position),
      msync: (stream: FsStream, buffer: ArrayBufferView, offset: number, length: number, flags: number) => {
        if ((flags & writeToMap) === 0) this.#write(stream.node, this.#bytesOf(buffer), 0, length, offset);
        return 0;
      },
    };
  }

  /** Emscripten lends its heap as signed bytes, and a vectored write as an array of its own. */
  #bytesOf(buffer: ArrayBufferView): Uint8Array {
    if (buffer.buffer === this.#heap.buffer && buffer.byteOffset === 0) return this.#heap;
    const bytes = new Uint8Array(buffer.buffer as ArrayBuffer, buffer.byteOffset, buffer.byteLength);
    if (buffer.buffer === this.#module.wasmMemory?.buffer && buffer.byteOffset === 0) this.#heap = bytes;
    return bytes;
  }

  #read(node: FsNode, target: Uint8Array, offset: number, length: number, position: number): number {
    const { kind } = node;
    switch (kind.type) {
      case 'relation':
        return this.#readRelation(node, kind.relation, kind.segment, target, offset, length, position);
      case 'file':
        return kind.file.read(position, target, offset, length);
      case 'scratch':
        return this.#guard(node, () => kind.file.read(position, target, offset, length));
      case 'wal':
        return this.#guard(node, () => this.#wal.read(kind.startLsn, position, target, offset, length));
      case 'folder':
        throw this.#error(errno.EISDIR);
    }
  }

  #readRelation(
    node: FsNode,
    relation: Relation,
    segment: number,
    target: Uint8Array,
    offset: number,
    length: number,
    position: number,
  ): number {
    const inSegment = Math.max(0, Math.min(length, segmentBytes - position));
    try {
      return this.#pages.read(relation, segment * segmentBytes + position, inSegment, target, offset);
    } catch (error) {
      throw this.#asErrno(error, node);
    }
  }

  #write(node: FsNode, source: Uint8Array, offset: number, length: number, position: number): number {
    const { kind } = node;
    switch (kind.type) {
      case 'relation':
        if (position % pageSize !== 0 || length % pageSize !== 0 || position + length > segmentBytes) {
          throw this.#error(errno.EINVAL);
        }
        this.#guard(node, () =>
          this.#pages.write(kind.relation, kind.segment * segmentBytes + position, source, offset, length),
        );
        return length;
      case 'file':
        kind.file.write(position, source, offset, length);
        return length;
      case 'scratch':
        this.#guard(node, () => kind.file.write(position, source, offset, length));
        return length;
      case 'wal':
        this.#guard(node, () => this.#wal.write(kind.startLsn, position, source, offset, length));
        return length;
      case 'folder':
        throw this.#error(errno.EISDIR);
    }
  }

  #seek(stream: FsStream, offset: number, whence: number): number {
    const base = whence === 1 ? stream.position : whence === 2 ? this.#size(stream.node) : 0;
    if (base + offset < 0) throw this.#error(errno.EINVAL);
    return base + offset;
  }

  #sync(node: FsNode): number {
    if (node.kind.type === 'wal') this.#guard(node, () => this.#wal.sync());
    return 0;
  }

  #map(stream: FsStream, length: number, position: number): { ptr: number; allocated: boolean } {
    const pointer = this.#module._malloc(length);
    if (pointer === 0) throw this.#error(errno.ENOMEM);
    const heap = this.#module.HEAPU8;
    heap.fill(0, pointer, pointer + length);
    this.#read(stream.node, heap, pointer, length, position);
    return { ptr: pointer, allocated: true };
  }
}

function hasSegment(relation: Relation, segment: number): boolean {
  return relation.exists && segment < relation.segments;
}

const timeOf = (ms: number) => ({ getTime: () => ms });

function pathIn(parent: FsNode, name: string): string {
  const { kind } = parent;
  return kind.type === 'folder' && kind.path !== '' ? `${kind.path}/${name}` : name;
}
