/**
 * The two relations that redo works on, as files of PGlite's in-memory file system with contents of our own.
 *
 * `scratch` holds the page that is being rebuilt: its base is what a read at its place returns; everything else in it reads as zeros.
 * `junk` stands for every other page that a record names: its pages carry an LSN later than any record, so that Postgres finds the record
 * applied to them already; its free space and visibility maps are empty. What is written to them is dropped.
 *
 * Both always reach beyond every block that a record names, so that nothing is ever extended: 1 GB files, and the last one a page short of
 * that. (Behind a full file Postgres looks for another one whenever it asks for the size, and a file that is not there is a failed look-up
 * of its path: measured at half the time of redo.)
 */
import type { PGlite } from '@electric-sql/pglite';
import { pageSize, relSegmentBlocks } from '../limits.ts';
import { writeLsn } from '../model/lsn.ts';
import { initFork, mainFork } from '../model/rel.ts';

export const scratchRel = 4_000_000_001;
export const junkRel = 4_000_000_002;
export const redoDatabase = 5;

const segmentBytes = relSegmentBlocks * pageSize;
const forkNames = ['', '_fsm', '_vm', '_init'];

// Emscripten's file system, as far as it is used here. The types that PGlite exports leave it open.
interface FsNode {
  id: number;
  contents: Record<string, FsNode> | Uint8Array;
  usedBytes?: number;
  stream_ops: object;
  node_ops: object;
}
interface EmscriptenFs {
  lookupPath(path: string): { node: FsNode };
  createNode(parent: FsNode, name: string, mode: number, dev: number): FsNode;
}

export class RedoFiles {
  readonly #fs: EmscriptenFs;
  readonly #folder: FsNode;
  readonly #junkPage: Uint8Array;
  #segments = 0;

  #base: Uint8Array | null = null;
  #fork = 0;
  #block = -1;

  constructor(pg: PGlite, junkLsn: number) {
    this.#fs = pg.Module.FS as unknown as EmscriptenFs;
    this.#folder = this.#fs.lookupPath(`/pglite/data/base/${redoDatabase}`).node;
    this.#junkPage = emptyPage(junkLsn);
    this.reach(0);
  }

  /** Makes `block` a block of both relations. */
  reach(block: number): void {
    // The last block of the last file is not there.
    for (; block >= this.#segments * relSegmentBlocks - 1; this.#segments++) {
      for (let fork = 0; fork < forkNames.length; fork++) {
        this.#makeFile(scratchRel, fork, this.#segments, (to, position) => this.#readScratch(to, fork, position));
        this.#makeFile(junkRel, fork, this.#segments, (to) => {
          if (fork === mainFork || fork === initFork) to.set(this.#junkPage);
          else to.fill(0);
        });
      }
    }
  }

  /** What the next read of this page of `scratch` returns; null: zeros. */
  setTarget(fork: number, block: number, base: Uint8Array | null): void {
    this.reach(block);
    this.#fork = fork;
    this.#block = block;
    this.#base = base;
  }

  #readScratch(to: Uint8Array, fork: number, position: number): void {
    if (this.#base !== null && fork === this.#fork && position === this.#block * pageSize) to.set(this.#base);
    else to.fill(0);
  }

  #makeFile(rel: number, fork: number, segment: number, readPage: (to: Uint8Array, position: number) => void): void {
    const name = `${rel}${forkNames[fork]}${segment === 0 ? '' : `.${segment}`}`;
    const node = this.#fs.createNode(this.#folder, name, 0o100600, 0);
    const start = segment * segmentBytes;
    const size = () => (segment === this.#segments - 1 ? segmentBytes - pageSize : segmentBytes);
    node.contents = new Uint8Array(0);
    node.usedBytes = segmentBytes;
    const epoch = { getTime: () => 0 };
    node.node_ops = {
      getattr: () => ({
        dev: 1,
        ino: node.id,
        mode: 0o100600,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: size(),
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        blksize: pageSize,
        blocks: 1,
      }),
      setattr: () => {},
    };
    node.stream_ops = {
      open: () => {},
      close: () => {},
      fsync: () => 0,
      llseek: (_stream: unknown, offset: number, whence: number) => (whence === 2 ? size() + offset : offset),
      read: (_stream: unknown, memory: Int8Array, offset: number, length: number, position: number) => {
        const bytes = new Uint8Array(memory.buffer, memory.byteOffset + offset, length);
        for (let at = 0; at < length; at += pageSize) {
          readPage(bytes.subarray(at, Math.min(at + pageSize, length)), start + position + at);
        }
        return length;
      },
      write: (_stream: unknown, _memory: Int8Array, _offset: number, length: number) => length,
    };
    (this.#folder.contents as Record<string, FsNode>)[name] = node;
  }
}

/** An initialised page without items. */
function emptyPage(lsn: number): Uint8Array {
  const page = new Uint8Array(pageSize);
  const view = new DataView(page.buffer);
  // A page's LSN is two halves, the high one first.
  const half = new DataView(new ArrayBuffer(8));
  writeLsn(half, 0, lsn);
  view.setUint32(0, half.getUint32(4, true), true);
  view.setUint32(4, half.getUint32(0, true), true);
  view.setUint16(12, 24, true);
  view.setUint16(14, pageSize, true);
  view.setUint16(16, pageSize, true);
  view.setUint16(18, pageSize | 4, true);
  return page;
}
