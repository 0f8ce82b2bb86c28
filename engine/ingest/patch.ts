/**
 * Patches: changes of Pagelite's own to values that Postgres's redo does not rebuild one page at a time.
 *
 * Written by ingest, applied by reconstruct on top of the value before them. A patch on a page of a relation (visibility map) interleaves
 * with WAL records of that page, in LSN order. Like PostgreSQL's visibilitymap_clear it leaves the page's own LSN alone.
 *
 * Byte 0 is the patch type; integers are little-endian.
 *
 *   | type             | value it changes   | body                                                         |
 *   |------------------|--------------------|--------------------------------------------------------------|
 *   | 1 vmClear        | visibility map     | u32 heap block, u8 bits to clear                             |
 *   | 2 vmTruncate     | visibility map     | u32 heap block: clear everything from it on, in this page    |
 *   | 3 xactStatus     | clog page (8200)   | u8 status (1 committed, 2 aborted), i64 time, u16 entries    |
 *   | 4 slruWrite      | any SLRU page      | (u16 offset, u16 length, bytes)...                           |
 *   | 5 directory      | rel directory      | (u8 1 add or 0 remove, u32 rel, u8 fork)...                  |
 *   | 6 memberWrite    | multixact members  | (u16 index in page, u8 status, u32 xid)...                   |
 *
 * A clog page's value is 8192 bytes of page and 8 bytes of time (PostgreSQL's microseconds since 2000-01-01): the latest commit or abort
 * that it tells of, by which an LSN is found for a moment (as in Neon).
 */
import { PageliteError } from '../errors.ts';
import { pageSize } from '../limits.ts';
import { formatKey, type KeyPrefix } from '../model/key.ts';
import { RelDirectory } from './rel-directory.ts';

export const patchType = {
  vmClear: 1,
  vmTruncate: 2,
  xactStatus: 3,
  slruWrite: 4,
  directory: 5,
  memberWrite: 6,
} as const;

export const clogValueBytes = pageSize + 8;

/** Visibility map (src/include/access/visibilitymapdefs.h, visibilitymap.c): two bits a heap block after the page header. */
const vmHeaderBytes = 24;
export const heapBlocksPerVmPage = (pageSize - vmHeaderBytes) * 4;

/** Multixact members (multixact.c): groups of four status bytes and four xids. */
export const membersPerGroup = 4;
export const memberGroupBytes = 20;
export const membersPerPage = Math.floor(pageSize / memberGroupBytes) * membersPerGroup;

/** Applies `patches`, oldest first, to `base` (null: the value did not exist). Returns a new array; `base` is not changed. Throws `corrupt`. */
export function applyPatches(
  prefix: KeyPrefix,
  block: number,
  base: Uint8Array | null,
  patches: readonly Uint8Array[],
): Uint8Array {
  const bad = (reason: string) =>
    new PageliteError('corrupt', `invalid patch of key ${formatKey(prefix, block)}: ${reason}`, {
      key: formatKey(prefix, block),
    });
  if (patches.length > 0 && patches[0]![0] === patchType.directory) {
    const directory = RelDirectory.decode(base);
    for (const patch of patches) {
      if (patch[0] !== patchType.directory || (patch.length - 1) % 6 !== 0) throw bad('not a directory change');
      directory.apply(patch.subarray(1));
    }
    return directory.encode();
  }
  let page: Uint8Array | null = base === null || base.length === 0 ? null : base.slice();
  for (const patch of patches) page = applyOne(patch, page, prefix, bad);
  return page ?? new Uint8Array(pageSize);
}

function applyOne(
  patch: Uint8Array,
  before: Uint8Array | null,
  prefix: KeyPrefix,
  bad: (reason: string) => PageliteError,
): Uint8Array {
  const view = new DataView(patch.buffer, patch.byteOffset, patch.byteLength);
  const type = patch[0];
  const clog = type === patchType.xactStatus || (prefix.kind === 1 && prefix.spc === 0);
  const size = clog ? clogValueBytes : pageSize;
  const page = before ?? new Uint8Array(size);
  if (page.length !== size) throw bad(`value of ${page.length} bytes`);
  switch (type) {
    case patchType.vmClear: {
      if (patch.length !== 6) throw bad('length');
      // A page that was never written holds no bit.
      if (before === null) return page;
      const at = view.getUint32(1, true) % heapBlocksPerVmPage;
      page[vmHeaderBytes + (at >> 2)]! &= ~(patch[5]! << ((at & 3) * 2));
      return page;
    }
    case patchType.vmTruncate: {
      if (patch.length !== 5) throw bad('length');
      if (before === null) return page;
      const at = view.getUint32(1, true) % heapBlocksPerVmPage;
      const byte = vmHeaderBytes + (at >> 2);
      page.fill(0, byte + 1);
      page[byte]! &= (1 << ((at & 3) * 2)) - 1;
      return page;
    }
    case patchType.xactStatus: {
      if (patch.length < 10 || patch.length % 2 !== 0) throw bad('length');
      const status = patch[1]!;
      for (let at = 10; at < patch.length; at += 2) {
        const entry = view.getUint16(at, true);
        if (entry >= pageSize * 4) throw bad(`transaction ${entry}`);
        const shift = (entry & 3) * 2;
        page[entry >> 2] = (page[entry >> 2]! & ~(3 << shift)) | (status << shift);
      }
      page.set(patch.subarray(2, 10), pageSize);
      return page;
    }
    case patchType.slruWrite: {
      for (let at = 1; at < patch.length; ) {
        if (at + 4 > patch.length) throw bad('length');
        const offset = view.getUint16(at, true);
        const length = view.getUint16(at + 2, true);
        if (at + 4 + length > patch.length || offset + length > pageSize) throw bad('range');
        page.set(patch.subarray(at + 4, at + 4 + length), offset);
        at += 4 + length;
      }
      return page;
    }
    case patchType.memberWrite: {
      if ((patch.length - 1) % 7 !== 0) throw bad('length');
      const pageView = new DataView(page.buffer, page.byteOffset, page.byteLength);
      for (let at = 1; at < patch.length; at += 7) {
        const index = view.getUint16(at, true);
        if (index >= membersPerPage) throw bad(`member ${index}`);
        const group = Math.floor(index / membersPerGroup) * memberGroupBytes;
        const within = index % membersPerGroup;
        page[group + within] = patch[at + 2]!;
        pageView.setUint32(group + 4 + within * 4, view.getUint32(at + 3, true), true);
      }
      return page;
    }
    default:
      throw bad(`type ${type}`);
  }
}

export function vmClearPatch(heapBlock: number, bits: number): Uint8Array {
  const patch = new Uint8Array(6);
  patch[0] = patchType.vmClear;
  new DataView(patch.buffer).setUint32(1, heapBlock, true);
  patch[5] = bits;
  return patch;
}

export function vmTruncatePatch(heapBlock: number): Uint8Array {
  const patch = new Uint8Array(5);
  patch[0] = patchType.vmTruncate;
  new DataView(patch.buffer).setUint32(1, heapBlock, true);
  return patch;
}

/** `entries` are transaction numbers within one clog page; `time` is the eight bytes of a TimestampTz. */
export function xactStatusPatch(status: 1 | 2, time: Uint8Array, entries: readonly number[]): Uint8Array {
  const patch = new Uint8Array(10 + entries.length * 2);
  const view = new DataView(patch.buffer);
  patch[0] = patchType.xactStatus;
  patch[1] = status;
  patch.set(time, 2);
  entries.forEach((entry, i) => {
    view.setUint16(10 + i * 2, entry, true);
  });
  return patch;
}

export function slruWritePatch(offset: number, bytes: Uint8Array): Uint8Array {
  const patch = new Uint8Array(5 + bytes.length);
  const view = new DataView(patch.buffer);
  patch[0] = patchType.slruWrite;
  view.setUint16(1, offset, true);
  view.setUint16(3, bytes.length, true);
  patch.set(bytes, 5);
  return patch;
}

export function memberWritePatch(members: readonly { index: number; status: number; xid: number }[]): Uint8Array {
  const patch = new Uint8Array(1 + members.length * 7);
  const view = new DataView(patch.buffer);
  patch[0] = patchType.memberWrite;
  members.forEach((member, i) => {
    view.setUint16(1 + i * 7, member.index, true);
    patch[3 + i * 7] = member.status;
    view.setUint32(4 + i * 7, member.xid, true);
  });
  return patch;
}
