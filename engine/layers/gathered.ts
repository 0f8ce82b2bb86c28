/**
 * What is gathered for one key on the way down the layers: values from the newest to the oldest, until one needs nothing older.
 */
import type { Lsn } from '../model/lsn.ts';
import type { ValueKind } from '../model/value.ts';

export class Gathered {
  /** Newest first. `bytes[i]` are views into layers: immutable, not to be changed. */
  readonly lsns: Lsn[] = [];
  readonly kinds: ValueKind[] = [];
  readonly bytes: Uint8Array[] = [];
  /** The last value pushed needs nothing older. */
  complete = false;

  push(lsn: Lsn, kind: ValueKind, bytes: Uint8Array): void {
    this.lsns.push(lsn);
    this.kinds.push(kind);
    this.bytes.push(bytes);
  }
}
