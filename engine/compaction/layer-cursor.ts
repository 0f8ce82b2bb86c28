/**
 * The values of layers that follow on each other in key order, one after another: what a merge reads.
 *
 * A cursor stands on one value, whose parts are its public fields; `next` goes on. Data blocks are read ahead in runs of `cursorRunBytes` or less, so a cursor
 * holds no more than that, whatever the layers' size, and `next` is synchronous but for once in a run.
 *
 * Invariant: values ascend by (key, LSN); those outside the key range are passed over.
 */
import { must } from '../assert.ts';
import type { DataBlock } from '../layers/data-block.ts';
import type { LayerFile } from '../layers/layer-file.ts';
import type { KeyRange } from '../layers/layer-name.ts';
import { cursorRunBytes } from '../limits.ts';
import { comparePrefixes, type KeyPrefix } from '../model/key.ts';
import type { ValueKind } from '../model/value.ts';

export class LayerCursor {
  readonly #files: readonly LayerFile[];
  readonly #range: KeyRange;
  readonly #runBytes: number;
  #file = -1;
  #nextBlock = 0;
  #blockEnd = 0;
  #run: readonly DataBlock[] = [];
  #runAt = 0;
  #entry = -1;
  #prefixAt = 0;

  // The value it stands on.
  prefix!: KeyPrefix;
  block = 0;
  lsn = 0;
  kind: ValueKind = 0 as ValueKind;
  data!: DataBlock;
  valueStart = 0;
  valueLength = 0;

  /** Files have disjoint key ranges and ascend. Stands before the first value. `readAheadBytes`: what it may hold, one block at least. */
  constructor(files: readonly LayerFile[], range: KeyRange, readAheadBytes: number = cursorRunBytes) {
    this.#files = files;
    this.#range = range;
    this.#runBytes = Math.min(readAheadBytes, cursorRunBytes);
  }

  /** Bytes of data blocks that are held. */
  get heldBytes(): number {
    return this.#run.reduce((sum, { bytes }) => sum + bytes.length, 0);
  }

  /** False at the end. */
  next(): boolean | Promise<boolean> {
    for (;;) {
      const data = this.#run[this.#runAt];
      if (data === undefined) {
        if (this.#nextBlock < this.#blockEnd) return this.#readRun().then(() => this.next());
        if (this.#file + 1 >= this.#files.length) return false;
        return this.#openNext().then(() => this.next());
      }
      this.#entry++;
      if (this.#entry >= data.entryCount) {
        this.#runAt++;
        this.#entry = -1;
        this.#prefixAt = 0;
        continue;
      }
      while (this.#entry >= data.prefixFirst[this.#prefixAt + 1]!) this.#prefixAt++;
      const prefix = data.prefixes[this.#prefixAt]!;
      const block = data.blocks[this.#entry]!;
      if (isBelow(prefix, block, this.#range.start)) continue;
      if (!isBelow(prefix, block, this.#range.end)) {
        this.#run = [];
        this.#runAt = 0;
        this.#nextBlock = this.#blockEnd;
        this.#file = this.#files.length;
        return false;
      }
      this.prefix = prefix;
      this.block = block;
      this.lsn = data.lsn(this.#entry);
      this.kind = data.kinds[this.#entry] as ValueKind;
      this.data = data;
      this.valueStart = data.valueStart(this.#entry);
      this.valueLength = data.valueLength(this.#entry);
      return true;
    }
  }

  async #openNext(): Promise<void> {
    this.#file++;
    const file = must(this.#files[this.#file]);
    const index = await file.open();
    const { start, end } = this.#range;
    // The block before the first one that begins in the range may end in it.
    this.#nextBlock = Math.max(0, index.locate(start.prefix, start.block, 0));
    this.#blockEnd = index.locate(end.prefix, end.block, 0) + 1;
    this.#run = [];
    this.#runAt = 0;
  }

  async #readRun(): Promise<void> {
    const file = this.#files[this.#file]!;
    const { offsets } = await file.open();
    const first = this.#nextBlock;
    let end = first + 1;
    while (end < this.#blockEnd && offsets[end + 1]! - offsets[first]! <= this.#runBytes) end++;
    this.#nextBlock = end;
    this.#run = (await file.holdBlocks(first, end - 1)).blocks;
    this.#runAt = 0;
    this.#entry = -1;
    this.#prefixAt = 0;
  }
}

function isBelow(prefix: KeyPrefix, block: number, key: { prefix: KeyPrefix; block: number }): boolean {
  if (prefix === key.prefix) return block < key.block;
  return comparePrefixes(prefix, key.prefix) < 0;
}
