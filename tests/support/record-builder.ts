/**
 * WAL records built by hand, in PostgreSQL's format: for what no short workload makes PostgreSQL write (truncated SLRUs, wrapped counters, records
 * of other versions), and for damage that has a valid CRC.
 */
import type { Lsn } from '../../engine/model/lsn.ts';
import { parseRecord } from '../../engine/wal/parse-record.ts';
import { WalRecord } from '../../engine/wal/wal-record.ts';

export interface BlockSpec {
  readonly id?: number;
  readonly rel: number;
  readonly fork?: number;
  readonly block: number;
  readonly willInit?: boolean;
  readonly db?: number;
}

export interface RecordSpec {
  readonly rmid: number;
  readonly info: number;
  readonly xid?: number;
  readonly main?: Uint8Array;
  readonly blocks?: readonly BlockSpec[];
  readonly origin?: number;
}

const header = 24;

/** The record at an LSN, decoded as ingest gets it. */
export function buildRecord(endLsn: number, spec: RecordSpec): WalRecord {
  const main = spec.main ?? new Uint8Array(0);
  const blocks = spec.blocks ?? [];
  const bytes = new Uint8Array(header + blocks.length * 20 + (spec.origin === undefined ? 0 : 3) + 5 + main.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, spec.xid ?? 0, true);
  bytes[16] = spec.info;
  bytes[17] = spec.rmid;
  let at = header;
  blocks.forEach((block, i) => {
    bytes[at] = block.id ?? i;
    bytes[at + 1] = (block.fork ?? 0) | (block.willInit ? 0x40 : 0);
    view.setUint32(at + 4, 1663, true);
    view.setUint32(at + 8, block.db ?? 5, true);
    view.setUint32(at + 12, block.rel, true);
    view.setUint32(at + 16, block.block, true);
    at += 20;
  });
  if (spec.origin !== undefined) {
    bytes[at] = 253;
    view.setUint16(at + 1, spec.origin, true);
    at += 3;
  }
  bytes[at] = 254;
  view.setUint32(at + 1, main.length, true);
  bytes.set(main, at + 5);

  const record = new WalRecord();
  record.bytes = bytes;
  record.view = view;
  record.lsn = (endLsn - 8) as Lsn;
  record.endLsn = endLsn as Lsn;
  parseRecord(record);
  return record;
}

/** Little-endian bytes: numbers are u32, bigints u64, `[value, width]` any other width. */
export function le(...values: (number | bigint | readonly [number, 1 | 2])[]): Uint8Array {
  const out: number[] = [];
  for (const value of values) {
    const [number, width] = Array.isArray(value)
      ? [BigInt(value[0]), value[1] as number]
      : typeof value === 'bigint'
        ? [value, 8]
        : [BigInt(value as number), 4];
    for (let i = 0; i < width; i++) out.push(Number((BigInt.asUintN(64, number) >> BigInt(i * 8)) & 0xffn));
  }
  return Uint8Array.from(out);
}
