/**
 * A log sequence number: a byte position in the WAL.
 *
 * A JavaScript number is exact to 2^53 (8 PiB of WAL), so `Lsn` is a branded number; `bigint` stays at the edges
 * (wire, files). Text form is PostgreSQL's: high and low 32 bits in hex, `0/16B5A50`.
 */
import { PageliteError } from '../errors.ts';

export type Lsn = number & { readonly __brand: 'Lsn' };

/** PostgreSQL's InvalidXLogRecPtr. */
export const invalidLsn = 0 as Lsn;
/** As a read position: "whatever is the latest". Never stored. */
export const maxLsn = Number.MAX_SAFE_INTEGER as Lsn;

const high = 4294967296;

/** Checks that `value` is a usable LSN. Throws `invalid`. */
export function lsn(value: number): Lsn {
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new PageliteError('invalid', `not an LSN: ${value}`);
  }
  return value as Lsn;
}

/** Parses `XXXXXXXX/XXXXXXXX` (hex, either case). Throws `invalid` with the text in the message. */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-Fa-f]{1,8})\/([0-9A-Fa-f]{1,8})$/.exec(text);
  const value = match ? Number.parseInt(match[1]!, 16) * high + Number.parseInt(match[2]!, 16) : Number.NaN;
  if (!Number.isSafeInteger(value)) {
    throw new PageliteError('invalid', `malformed LSN "${text}": expected two hex numbers, for example 0/16B5A50`);
  }
  return value as Lsn;
}

export function formatLsn(value: number): string {
  const low = value % high;
  return `${((value - low) / high).toString(16).toUpperCase()}/${low.toString(16).toUpperCase()}`;
}

export function readLsn(view: DataView, offset: number): Lsn {
  return (view.getUint32(offset + 4, true) * high + view.getUint32(offset, true)) as Lsn;
}

export function writeLsn(view: DataView, offset: number, value: number): void {
  const low = value % high;
  view.setUint32(offset, low, true);
  view.setUint32(offset + 4, (value - low) / high, true);
}

/** MAXALIGN: WAL records start on 8-byte boundaries. */
export function alignLsn(value: number): Lsn {
  const rest = value % 8;
  return (rest === 0 ? value : value + 8 - rest) as Lsn;
}
