/**
 * What a value is rebuilt from: versions of one key, newest first, down to one that needs nothing older.
 *
 * Filled by the layers in the order in which reconstruct visits them (R8); each only adds what is older than what is there.
 */
import type { KeyPrefix } from '../model/key.ts';
import { isSelfContained, type ValueKind, valueKind } from '../model/value.ts';

/** Memory that holds one whole page and does not change: its checksum is computed once. */
export interface PageHolder {
  /** CRC32C; -1: not computed yet. */
  pageChecksum: number;
}

export class ValueChain {
  readonly prefix: KeyPrefix;
  readonly block: number;
  readonly lsns: number[] = [];
  readonly kinds: ValueKind[] = [];
  /** Views of layers' memory: read only. */
  readonly values: Uint8Array[] = [];
  /** Nothing older is needed. */
  complete = false;
  /** Versions at or below this LSN are not needed: `known` is the whole value as of it. */
  knownLsn = -1;
  /** Layers that were looked into for it so far. */
  layersVisited = 0;
  known: (PageHolder & { readonly bytes: Uint8Array }) | null = null;
  /** If the only version is an image that has this to itself. */
  holder: PageHolder | null = null;

  constructor(prefix: KeyPrefix, block: number) {
    this.prefix = prefix;
    this.block = block;
  }

  /** Returns true if that was all. `holder`: of an image that has its memory to itself. */
  add(lsn: number, kind: ValueKind, value: Uint8Array, holder: PageHolder | null = null): boolean {
    this.holder = this.lsns.length === 0 && kind === valueKind.image ? holder : null;
    this.lsns.push(lsn);
    this.kinds.push(kind);
    this.values.push(value);
    this.complete = isSelfContained(kind);
    return this.complete;
  }
}
