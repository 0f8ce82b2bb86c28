/**
 * The index in the store is always the newest that its owner has put, or becomes it with the next put, whatever becomes of requests that were given up.
 *
 * Attacked with puts whose answer is lost, puts that fail before or after they were done, and puts that come late, in any order, up to the end: in a store
 * that knows `ifVersion`, and in one that only looks before it puts. The seed is in every message.
 */
import { describe, expect, it } from 'vitest';
import { isPageliteError, PageliteError } from '../../engine/errors.ts';
import { tenantId, timelineId } from '../../engine/model/ids.ts';
import type { Lsn } from '../../engine/model/lsn.ts';
import { MemoryObjectStore } from '../../engine/stores/memory.ts';
import { decodeIndexPart, newIndexPart, StoredIndex } from '../../engine/timeline/index-part.ts';
import { SeededRandom } from '../support/seeded-random.ts';

type Condition = Parameters<MemoryObjectStore['put']>[2];

const id = { tenantId: tenantId('a'.repeat(32)), timelineId: timelineId('b'.repeat(32)) };
const partAt = (lsn: number) => ({
  ...newIndexPart({ systemIdentifier: 1n, lsn: 8 as Lsn, prevRecordLsn: 0 as Lsn }),
  diskConsistentLsn: lsn as Lsn,
});

/** Puts of the index are given up now and then, and happen later, or never. */
class LateStore extends MemoryObjectStore {
  readonly late: (() => Promise<unknown>)[] = [];
  failing = 0;
  readonly #random: SeededRandom;
  /** What comes late is still held against its condition. */
  readonly #isAtomic: boolean;

  constructor(random: SeededRandom, isAtomic: boolean) {
    super();
    this.#random = random;
    this.#isAtomic = isAtomic;
  }

  override async put(key: string, bytes: Uint8Array, condition?: Condition): Promise<string> {
    if (!this.#random.chance(this.failing)) return super.put(key, bytes, condition);
    const what = this.#random.next();
    if (what < 0.3) await super.put(key, bytes, condition);
    else if (what < 0.9) {
      const version = condition && 'ifVersion' in condition ? condition.ifVersion : null;
      const isBlind = version !== null && !this.#isAtomic && (await this.head(key))?.version === version;
      this.late.push(() => super.put(key, bytes, isBlind ? undefined : condition).catch(() => {}));
    }
    throw new PageliteError('unavailable', 'no answer in time');
  }

  async landOne(): Promise<void> {
    const [put] = this.late.splice(this.#random.below(this.late.length), 1);
    await put?.();
  }
}

async function insist(work: () => Promise<unknown>): Promise<void> {
  for (;;) {
    try {
      await work();
      return;
    } catch (error) {
      if (!isPageliteError(error, 'unavailable')) throw error;
    }
  }
}

describe.each([
  ['a store that knows ifVersion', true],
  ['a store that only looks before it puts', false],
])('%s', (_, isAtomic) => {
  it('has the newest index, whatever comes late', async () => {
    for (let seed = 1; seed <= 300; seed++) {
      const random = new SeededRandom(seed);
      const store = new LateStore(random, isAtomic);
      let index: StoredIndex;
      if (random.chance(0.5)) index = await StoredIndex.create(store, id, 1, partAt(8));
      else {
        await StoredIndex.create(store, id, 1, partAt(8));
        // Somebody newer has it: its first put is of an object that is not there yet.
        index = await StoredIndex.load(store, id, 2);
      }
      const stored = async () => decodeIndexPart((await store.get(index.key))!.bytes, index.key);
      store.failing = 0.4;
      for (let lsn = 16; lsn < 16 + 8 * 12; lsn += 8) {
        await insist(() => index.put(partAt(lsn)));
        expect((await stored()).diskConsistentLsn, `seed ${seed}`).toBe(lsn);
        while (random.chance(0.5) && store.late.length > 0) await store.landOne();
        if (isAtomic) expect((await stored()).diskConsistentLsn, `seed ${seed}`).toBe(lsn);
      }
      while (store.late.length > 0) await store.landOne();
      if (isAtomic) expect(await stored(), `seed ${seed}`).toEqual(index.part);
      store.failing = 0;
      await index.put(partAt(1000));
      expect((await stored()).diskConsistentLsn, `seed ${seed}`).toBe(1000);
    }
  });

  it('has no index of a timeline that was deleted, whatever comes late', async () => {
    if (!isAtomic) return;
    for (let seed = 1; seed <= 100; seed++) {
      const store = new LateStore(new SeededRandom(seed), isAtomic);
      const index = await StoredIndex.create(store, id, 1, partAt(8));
      store.failing = 0.7;
      for (let lsn = 16; lsn < 60; lsn += 8) await insist(() => index.put(partAt(lsn)));
      await store.delete(index.key);
      while (store.late.length > 0) await store.landOne();
      expect(await store.list(''), `seed ${seed}`).toEqual([]);
    }
  });
});

it('who finds an index that he has not written is fenced, and leaves it', async () => {
  const store = new MemoryObjectStore();
  const index = await StoredIndex.create(store, id, 1, partAt(8));
  const twin = await StoredIndex.load(store, id, 1);
  await twin.put(partAt(16));
  await expect(index.put(partAt(24))).rejects.toMatchObject({ kind: 'fenced', data: { file: index.key } });
  expect(decodeIndexPart((await store.get(index.key))!.bytes, index.key).diskConsistentLsn).toBe(16);
});
