/**
 * Values of several layers in one ascending order of (key, LSN).
 *
 * A merge stands on one value, that of `current`; `next` goes on to the next one. Values of one key and LSN come from one input only, the first that has
 * them, in their order there: where layers overlap they hold the same.
 *
 * The inputs are few (flushed layers and a run or two), so the least one is found by looking at each; what is compared is two numbers, as prefixes are
 * compared only when they differ.
 */
import { comparePrefixes, type KeyPrefix } from '../model/key.ts';
import type { LayerCursor } from './layer-cursor.ts';

export class LayerMerge {
  readonly #cursors: (LayerCursor | null)[];
  #isStarted = false;
  /** Index into `#cursors` of the one it stands on. */
  #at = -1;

  constructor(cursors: readonly LayerCursor[]) {
    this.#cursors = [...cursors];
  }

  /** The cursor whose value is the merge's; valid after `next` was true. */
  get current(): LayerCursor {
    return this.#cursors[this.#at]!;
  }

  /** False at the end. */
  next(): boolean | Promise<boolean> {
    if (!this.#isStarted) return this.#start();
    const cursor = this.current;
    const { prefix, block, lsn } = cursor;
    const moved = cursor.next();
    if (typeof moved === 'boolean') return this.#moved(moved, prefix, block, lsn);
    return moved.then((more) => this.#moved(more, prefix, block, lsn));
  }

  async #start(): Promise<boolean> {
    this.#isStarted = true;
    for (const [i, cursor] of this.#cursors.entries()) {
      if (!(await cursor!.next())) this.#cursors[i] = null;
    }
    return this.#findLeast();
  }

  /** The current cursor has gone on from (prefix, block, lsn). */
  #moved(more: boolean, prefix: KeyPrefix, block: number, lsn: number): boolean | Promise<boolean> {
    const cursor = this.current;
    if (!more) this.#cursors[this.#at] = null;
    // The same key and LSN once more: they belong together.
    else if (cursor.prefix === prefix && cursor.block === block && cursor.lsn === lsn) return true;
    return this.#skip(prefix, block, lsn);
  }

  /** Passes over what other inputs have at (prefix, block, lsn), where the current one had its values. */
  #skip(prefix: KeyPrefix, block: number, lsn: number): boolean | Promise<boolean> {
    const cursors = this.#cursors;
    for (let i = 0; i < cursors.length; i++) {
      for (;;) {
        const cursor = cursors[i]!;
        if (cursor === null || cursor.prefix !== prefix || cursor.block !== block || cursor.lsn !== lsn) break;
        const moved = cursor.next();
        if (typeof moved !== 'boolean') {
          return moved.then((more) => {
            if (!more) cursors[i] = null;
            return this.#skip(prefix, block, lsn);
          });
        }
        if (!moved) cursors[i] = null;
      }
    }
    return this.#findLeast();
  }

  #findLeast(): boolean {
    const cursors = this.#cursors;
    let least = -1;
    for (let i = 0; i < cursors.length; i++) {
      const cursor = cursors[i]!;
      if (cursor === null) continue;
      if (least < 0 || isBefore(cursor, cursors[least]!)) least = i;
    }
    this.#at = least;
    return least >= 0;
  }
}

function isBefore(a: LayerCursor, b: LayerCursor): boolean {
  if (a.prefix !== b.prefix) return comparePrefixes(a.prefix, b.prefix) < 0;
  return a.block !== b.block ? a.block < b.block : a.lsn < b.lsn;
}
