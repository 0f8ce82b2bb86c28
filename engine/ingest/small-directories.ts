/**
 * The short lists that are stored whole: databases, segments of an SLRU, prepared transactions, progress of replication origins.
 *
 * Image: byte 0 version (1), then the entries: databases (u32 spc, u32 db), segments (u32), prepared transactions (u64 full xid), origins
 * (u16 origin, u64 remote LSN).
 */
import { PageliteError } from '../errors.ts';
import { type Lsn, readLsn, writeLsn } from '../model/lsn.ts';

const version = 1;

export interface DatabaseEntry {
  readonly spc: number;
  readonly db: number;
}

function body(image: Uint8Array | null, entryBytes: number, what: string): DataView {
  if (image === null || image.length === 0) return new DataView(new ArrayBuffer(0));
  if (image[0] !== version || (image.length - 1) % entryBytes !== 0) {
    throw new PageliteError('corrupt', `${what} directory of version ${image[0]} and ${image.length} bytes`);
  }
  return new DataView(image.buffer, image.byteOffset + 1, image.byteLength - 1);
}

function start(count: number, entryBytes: number): { image: Uint8Array; view: DataView } {
  const image = new Uint8Array(1 + count * entryBytes);
  image[0] = version;
  return { image, view: new DataView(image.buffer, 1) };
}

export function decodeDatabases(image: Uint8Array | null): DatabaseEntry[] {
  const view = body(image, 8, 'database');
  const entries: DatabaseEntry[] = [];
  for (let at = 0; at < view.byteLength; at += 8) {
    entries.push({ spc: view.getUint32(at, true), db: view.getUint32(at + 4, true) });
  }
  return entries;
}

export function encodeDatabases(entries: readonly DatabaseEntry[]): Uint8Array {
  const { image, view } = start(entries.length, 8);
  entries.forEach((entry, i) => {
    view.setUint32(i * 8, entry.spc, true);
    view.setUint32(i * 8 + 4, entry.db, true);
  });
  return image;
}

export function decodeSegments(image: Uint8Array | null): number[] {
  const view = body(image, 4, 'SLRU segment');
  const segments: number[] = [];
  for (let at = 0; at < view.byteLength; at += 4) segments.push(view.getUint32(at, true));
  return segments;
}

/** Sorts them. */
export function encodeSegments(segments: Iterable<number>): Uint8Array {
  const sorted = [...segments].sort((a, b) => a - b);
  const { image, view } = start(sorted.length, 4);
  sorted.forEach((segment, i) => {
    view.setUint32(i * 4, segment, true);
  });
  return image;
}

/** Full transaction ids; exact up to 2^53. */
export function decodePrepared(image: Uint8Array | null): number[] {
  const view = body(image, 8, 'prepared transaction');
  const xids: number[] = [];
  for (let at = 0; at < view.byteLength; at += 8) xids.push(Number(view.getBigUint64(at, true)));
  return xids;
}

export function encodePrepared(xids: readonly number[]): Uint8Array {
  const { image, view } = start(xids.length, 8);
  xids.forEach((xid, i) => {
    view.setBigUint64(i * 8, BigInt(xid), true);
  });
  return image;
}

/** By origin. */
export function decodeOrigins(image: Uint8Array | null): Map<number, Lsn> {
  const view = body(image, 10, 'replication origin');
  const origins = new Map<number, Lsn>();
  for (let at = 0; at < view.byteLength; at += 10) origins.set(view.getUint16(at, true), readLsn(view, at + 2));
  return origins;
}

export function encodeOrigins(origins: ReadonlyMap<number, Lsn>): Uint8Array {
  const { image, view } = start(origins.size, 10);
  [...origins].forEach(([origin, lsn], i) => {
    view.setUint16(i * 10, origin, true);
    writeLsn(view, i * 10 + 2, lsn);
  });
  return image;
}
