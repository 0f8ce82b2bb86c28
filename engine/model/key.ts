/**
 * Keys of the storage engine: a prefix and a block number.
 *
 * On disk a key is Neon's 18 bytes, big-endian, so that bytes sort as keys do (libs/pageserver_api/src/key.rs):
 *
 *   | bytes | field | relation page | SLRU page      | others                  |
 *   |-------|-------|---------------|----------------|-------------------------|
 *   | 0     | kind  | 0x00          | 0x01           | 0x02 2PC, 0x03 global   |
 *   | 1-4   | spc   | tablespace    | SLRU kind      |                         |
 *   | 5-8   | db    | database      | 0x00000001     |                         |
 *   | 9-12  | rel   | relfilenumber | segment number |                         |
 *   | 13    | fork  | fork          | 0              |                         |
 *   | 14-17 | block | block number  | block in it    |                         |
 *
 * In memory the first five fields are one interned `KeyPrefix` object: two prefixes are equal if and only if they are the
 * same object, so hot paths compare pointers and index by `prefix.id`, and never build strings or bigints.
 * `block === sizeBlock` holds a relation's or SLRU segment's size.
 */
import { assert } from '../assert.ts';
import type { RelTag } from './rel.ts';

export const keyBytes = 18;
/** The block number under which a relation's (or SLRU segment's) size in blocks is kept. */
export const sizeBlock = 0xffffffff;

export const keyKind = { rel: 0, slru: 1, twoPhase: 2, global: 3 } as const;

/** Which SLRU; the numbers are Neon's SlruKind. */
export const slruKind = { clog: 0, multixactMembers: 1, multixactOffsets: 2 } as const;
export type SlruKind = (typeof slruKind)[keyof typeof slruKind];

export class KeyPrefix {
  /** Dense and unique in this process; not ordered. */
  readonly id: number;
  readonly kind: number;
  readonly spc: number;
  readonly db: number;
  readonly rel: number;
  readonly fork: number;

  /** Use `keyPrefix()`: prefixes are interned. */
  constructor(id: number, kind: number, spc: number, db: number, rel: number, fork: number) {
    this.id = id;
    this.kind = kind;
    this.spc = spc;
    this.db = db;
    this.rel = rel;
    this.fork = fork;
  }

  toString(): string {
    const hex = (n: number, digits: number) => n.toString(16).toUpperCase().padStart(digits, '0');
    return hex(this.kind, 2) + hex(this.spc, 8) + hex(this.db, 8) + hex(this.rel, 8) + hex(this.fork, 2);
  }
}

const interned = new Map<number, Map<number, KeyPrefix>>();
let nextPrefixId = 0;
let last: KeyPrefix | undefined;

/** The interned prefix of these fields. The latest one asked for is found without a look-up. */
export function keyPrefix(kind: number, spc: number, db: number, rel: number, fork: number): KeyPrefix {
  if (
    last !== undefined &&
    last.rel === rel &&
    last.fork === fork &&
    last.db === db &&
    last.spc === spc &&
    last.kind === kind
  ) {
    return last;
  }
  // Two numbers of at most 53 bits name the prefix: (db, kind, fork) and (rel, spc folded by an inner scan if it collides).
  const outerKey = db * 4096 + kind * 16 + fork;
  let byRel = interned.get(outerKey);
  if (byRel === undefined) {
    byRel = new Map();
    interned.set(outerKey, byRel);
  }
  // spc is below 2^20 in practice; a larger one is folded in by multiplication and checked below.
  const innerKey = rel * 1048576 + (spc % 1048576);
  let prefix = byRel.get(innerKey);
  if (prefix === undefined) {
    assert(spc < 1048576, `tablespace oid ${spc} is out of range`);
    assert(kind < 256 && fork < 16);
    prefix = new KeyPrefix(nextPrefixId++, kind, spc, db, rel, fork);
    byRel.set(innerKey, prefix);
  }
  last = prefix;
  return prefix;
}

export const relPrefix = (rel: RelTag): KeyPrefix => keyPrefix(keyKind.rel, rel.spc, rel.db, rel.rel, rel.fork);

/** Behind the highest block that a key can have. */
export const blockLimit = 4294967296;

/** One key, for paths that are not hot. */
export interface Key {
  readonly prefix: KeyPrefix;
  readonly block: number;
}

export function comparePrefixes(a: KeyPrefix, b: KeyPrefix): number {
  return a.kind - b.kind || a.spc - b.spc || a.db - b.db || a.rel - b.rel || a.fork - b.fork;
}

export function compareKeys(a: Key, b: Key): number {
  return a.prefix === b.prefix ? a.block - b.block : comparePrefixes(a.prefix, b.prefix);
}

export function writeKey(view: DataView, offset: number, prefix: KeyPrefix, block: number): void {
  view.setUint8(offset, prefix.kind);
  view.setUint32(offset + 1, prefix.spc);
  view.setUint32(offset + 5, prefix.db);
  view.setUint32(offset + 9, prefix.rel);
  view.setUint8(offset + 13, prefix.fork);
  view.setUint32(offset + 14, block);
}

export function readKeyPrefix(view: DataView, offset: number): KeyPrefix {
  return keyPrefix(
    view.getUint8(offset),
    view.getUint32(offset + 1),
    view.getUint32(offset + 5),
    view.getUint32(offset + 9),
    view.getUint8(offset + 13),
  );
}

export const readKeyBlock = (view: DataView, offset: number): number => view.getUint32(offset + 14);

/** 36 hex digits, as in layer file names. */
export function formatKey(prefix: KeyPrefix, block: number): string {
  return prefix.toString() + block.toString(16).toUpperCase().padStart(8, '0');
}

// The keys that are not relation pages. Same places as in Neon.

/** Image: the list of databases, see ingest/db-directory.ts. */
export const dbDirectoryKey: Key = { prefix: keyPrefix(keyKind.rel, 0, 0, 0, 0), block: 0 };
/** Image: a pg_filenode.map. */
export const relMapKey = (spc: number, db: number): Key => ({
  prefix: keyPrefix(keyKind.rel, spc, db, 0, 0),
  block: 0,
});
/** Image or patches: relations of one database. */
export const relDirectoryKey = (spc: number, db: number): Key => ({
  prefix: keyPrefix(keyKind.rel, spc, db, 0, 0),
  block: 1,
});
/** Image or patches: segments of one SLRU. */
export const slruDirectoryKey = (kind: SlruKind): Key => ({ prefix: keyPrefix(keyKind.slru, kind, 0, 0, 0), block: 0 });
export const slruPrefix = (kind: SlruKind, segment: number): KeyPrefix => keyPrefix(keyKind.slru, kind, 1, segment, 0);
/** Image: list of prepared transactions. */
export const twoPhaseDirectoryKey: Key = { prefix: keyPrefix(keyKind.twoPhase, 0, 0, 0, 0), block: 0 };
/** Image: one prepared transaction's state file. `xid` is the full 64-bit transaction id. */
export const twoPhaseKey = (xid: number): Key => ({
  prefix: keyPrefix(keyKind.twoPhase, 0, 1, Math.floor(xid / 4294967296), 0),
  block: xid % 4294967296,
});
/** Image: pg_control of the template (304 bytes are meaningful). */
export const controlFileKey: Key = { prefix: keyPrefix(keyKind.global, 0, 0, 0, 0), block: 0 };
/** Image: the running checkpoint state, see ingest/checkpoint-state.ts. */
export const checkpointKey: Key = { prefix: keyPrefix(keyKind.global, 0, 0, 0, 0), block: 1 };
/** Image: progress of replication origins, see ingest/small-directories.ts. */
export const replicationOriginsKey: Key = { prefix: keyPrefix(keyKind.global, 0, 0, 0, 0), block: 3 };
/** Image: configuration files of the template, see basebackup/import-template.ts. */
export const staticFilesKey: Key = { prefix: keyPrefix(keyKind.global, 0, 0, 0, 0), block: 2 };
