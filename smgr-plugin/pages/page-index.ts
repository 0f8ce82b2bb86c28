/**
 * R2. (relation, block) -> slot, for the page cache and what it has spilled: a hash table in two typed arrays.
 *
 * Open addressing with linear probing; removal moves later entries back, so there are no tombstones. `relation` is the dense number that the
 * relation table gave out. About 20 ns a look-up; nothing is allocated but when the table grows.
 *
 * Invariant: at most half of the places are taken.
 */
const nothing = -1;

export class PageIndex {
  #mask: number;
  #relations: Int32Array;
  #blocks: Uint32Array;
  #slots: Int32Array;
  #count = 0;

  constructor(capacity = 64) {
    let places = 128;
    while (places < capacity * 2) places *= 2;
    this.#mask = places - 1;
    this.#relations = new Int32Array(places);
    this.#blocks = new Uint32Array(places);
    this.#slots = new Int32Array(places).fill(nothing);
  }

  get count(): number {
    return this.#count;
  }

  /** -1 if absent. */
  get(relation: number, block: number): number {
    for (let at = hash(relation, block) & this.#mask; ; at = (at + 1) & this.#mask) {
      const slot = this.#slots[at]!;
      if (slot === nothing) return nothing;
      if (this.#blocks[at] === block && this.#relations[at] === relation) return slot;
    }
  }

  /** Adds an absent entry or replaces a present one. */
  set(relation: number, block: number, slot: number): void {
    if ((this.#count + 1) * 2 > this.#mask + 1) this.#grow();
    let at = hash(relation, block) & this.#mask;
    while (this.#slots[at] !== nothing && !(this.#blocks[at] === block && this.#relations[at] === relation)) {
      at = (at + 1) & this.#mask;
    }
    if (this.#slots[at] === nothing) this.#count++;
    this.#relations[at] = relation;
    this.#blocks[at] = block;
    this.#slots[at] = slot;
  }

  /** The slot that was there, or -1. */
  delete(relation: number, block: number): number {
    let at = hash(relation, block) & this.#mask;
    for (; ; at = (at + 1) & this.#mask) {
      if (this.#slots[at] === nothing) return nothing;
      if (this.#blocks[at] === block && this.#relations[at] === relation) break;
    }
    const slot = this.#slots[at]!;
    this.#count--;
    for (let next = (at + 1) & this.#mask; this.#slots[next] !== nothing; next = (next + 1) & this.#mask) {
      const home = hash(this.#relations[next]!, this.#blocks[next]!) & this.#mask;
      // An entry may fill the gap unless its home lies behind the gap.
      if (((next - home) & this.#mask) < ((next - at) & this.#mask)) continue;
      this.#relations[at] = this.#relations[next]!;
      this.#blocks[at] = this.#blocks[next]!;
      this.#slots[at] = this.#slots[next]!;
      at = next;
    }
    this.#slots[at] = nothing;
    return slot;
  }

  /** Calls for each entry; entries must not be added or removed meanwhile. */
  forEach(visit: (relation: number, block: number, slot: number) => void): void {
    for (let at = 0; at <= this.#mask; at++) {
      if (this.#slots[at] !== nothing) visit(this.#relations[at]!, this.#blocks[at]!, this.#slots[at]!);
    }
  }

  #grow(): void {
    const bigger = new PageIndex(this.#mask + 1);
    this.forEach((relation, block, slot) => {
      bigger.set(relation, block, slot);
    });
    this.#mask = bigger.#mask;
    this.#relations = bigger.#relations;
    this.#blocks = bigger.#blocks;
    this.#slots = bigger.#slots;
  }
}

/** Neighbouring blocks and neighbouring relations spread over the table. */
export function hash(relation: number, block: number): number {
  let h = Math.imul(relation, 0x9e3779b1) ^ Math.imul(block, 0x85ebca6b);
  h ^= h >>> 15;
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 13)) >>> 0;
}
