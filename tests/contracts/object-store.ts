/**
 * What every ObjectStore does (engine/services.ts).
 *
 * Must hold: a read gives what was put, whole or by range; conditions of `put` are kept also when many try at once; absence is null and never an
 * error; lists are sorted and complete; bytes given and taken are not shared.
 */
import { describe, expect, it } from 'vitest';
import { type ErrorKind, PageliteError } from '../../engine/errors.ts';
import type { ObjectStore } from '../../engine/services.ts';

export interface ObjectStoreFixture {
  readonly store: ObjectStore;
  close(): Promise<void>;
}

const bytes = (...values: number[]) => new Uint8Array(values);

async function kindOf(promise: Promise<unknown>): Promise<ErrorKind | 'resolved'> {
  try {
    await promise;
    return 'resolved';
  } catch (error) {
    expect(error).toBeInstanceOf(PageliteError);
    return (error as PageliteError).kind;
  }
}

export function runObjectStoreContract(name: string, setup: () => Promise<ObjectStoreFixture>): void {
  describe(`ObjectStore: ${name}`, () => {
    const using = (body: (store: ObjectStore) => Promise<void>) => async () => {
      const { store, close } = await setup();
      try {
        await body(store);
      } finally {
        await close();
      }
    };

    it(
      'reads what was put, and the newest',
      using(async (store) => {
        await store.put('a/b/c', bytes(1, 2, 3));
        await store.put('a/b/d', bytes());
        expect((await store.get('a/b/c'))?.bytes).toEqual(bytes(1, 2, 3));
        expect((await store.get('a/b/d'))?.bytes).toEqual(bytes());
        const version = await store.put('a/b/c', bytes(9));
        expect(await store.get('a/b/c')).toEqual({ bytes: bytes(9), version });
        expect(await store.head('a/b/c')).toEqual({ size: 1, version });
      }),
    );

    it(
      'takes arrays of any subclass, and gives plain ones, whose `slice` is a copy',
      using(async (store) => {
        /** As Node's Buffer: a slice is the same memory. */
        class Sharing extends Uint8Array<ArrayBuffer> {
          override slice(start?: number, end?: number) {
            return this.subarray(start, end);
          }
        }
        await store.put('s', Sharing.from([1, 2, 3, 4]));
        for (const range of [undefined, { start: 0, end: 4 }, { start: 1, end: 3 }]) {
          const found = (await store.get('s', range))!.bytes;
          expect(Object.getPrototypeOf(found)).toBe(Uint8Array.prototype);
          found.fill(9);
        }
        expect((await store.get('s'))?.bytes).toEqual(bytes(1, 2, 3, 4));
      }),
    );

    it(
      'reads ranges, clamped to the size',
      using(async (store) => {
        await store.put('r', bytes(0, 1, 2, 3, 4, 5, 6, 7));
        const range = async (start: number, end: number) => (await store.get('r', { start, end }))?.bytes;
        expect(await range(2, 5)).toEqual(bytes(2, 3, 4));
        expect(await range(6, 100)).toEqual(bytes(6, 7));
        expect(await range(50, 100)).toEqual(bytes());
        expect(await range(3, 3)).toEqual(bytes());
      }),
    );

    it(
      'what is absent is null',
      using(async (store) => {
        expect(await store.get('x')).toBeNull();
        expect(await store.get('x', { start: 0, end: 1 })).toBeNull();
        expect(await store.head('x/y')).toBeNull();
        expect(await store.list('x')).toEqual([]);
        await store.delete('x/y');
        await store.put('x/y', bytes(1));
        await store.delete('x/y');
        await store.delete('x/y');
        expect(await store.get('x/y')).toBeNull();
        await store.put('x/y', bytes(2), { ifAbsent: true });
        expect((await store.get('x/y'))?.bytes).toEqual(bytes(2));
      }),
    );

    it(
      'lists keys under a prefix in order, with sizes',
      using(async (store) => {
        for (const key of ['t/2/b', 't/10/a', 't/2/a', 't/20', 'u/1']) await store.put(key, bytes(1, 2));
        const size = 2;
        expect(await store.list('t/2')).toEqual([
          { key: 't/2/a', size },
          { key: 't/2/b', size },
          { key: 't/20', size },
        ]);
        expect((await store.list('t/')).map(({ key }) => key)).toEqual(['t/10/a', 't/2/a', 't/2/b', 't/20']);
        expect((await store.list('')).length).toBe(5);
      }),
    );

    it(
      'lists the folders right under a folder, in order',
      using(async (store) => {
        for (const key of ['t/2/b', 't/10/a/c', 't/2/a', 't/20', 'u/1/x']) await store.put(key, bytes(1));
        expect(await store.listFolders('')).toEqual(['t', 'u']);
        expect(await store.listFolders('t/')).toEqual(['10', '2']);
        expect(await store.listFolders('t/2/')).toEqual([]);
        expect(await store.listFolders('x/')).toEqual([]);
        await store.delete('t/10/a/c');
        expect(await store.listFolders('t/')).toEqual(['2']);
      }),
    );

    it(
      'ifAbsent: the first of many wins',
      using(async (store) => {
        const kinds = await Promise.all(
          Array.from({ length: 8 }, (_, i) => kindOf(store.put('k', bytes(i), { ifAbsent: true }))),
        );
        expect(kinds.filter((kind) => kind === 'resolved').length).toBe(1);
        expect(kinds.filter((kind) => kind === 'invalid').length).toBe(7);
        expect((await store.get('k'))?.bytes[0]).toBe(kinds.indexOf('resolved'));
      }),
    );

    it(
      'ifVersion: one of many swaps, the others are fenced',
      using(async (store) => {
        const first = await store.put('k', bytes(1));
        const swap = async (i: number): Promise<string> => {
          const kind = await kindOf(store.put('k', bytes(i + 10), { ifVersion: first }));
          // A server may be so busy with the others that it says no more than that this failed: when it is asked again it says why.
          return kind === 'unavailable' ? swap(i) : kind;
        };
        const kinds = await Promise.all(Array.from({ length: 8 }, (_, i) => swap(i)));
        expect(kinds.filter((kind) => kind === 'resolved').length).toBe(1);
        expect(kinds.filter((kind) => kind === 'fenced').length).toBe(7);
        const second = await store.get('k');
        expect(second?.bytes[0]).toBe(kinds.indexOf('resolved') + 10);
        const third = await store.put('k', bytes(3), { ifVersion: second!.version });
        expect(third).not.toBe(second!.version);
        await store.delete('k');
        expect(await kindOf(store.put('k', bytes(4), { ifVersion: third }))).toBe('fenced');
        expect(await store.get('k')).toBeNull();
      }),
    );

    it(
      'shares no bytes with the caller',
      using(async (store) => {
        const given = bytes(1, 2, 3);
        await store.put('k', given);
        given.fill(9);
        const got = await store.get('k');
        got!.bytes.fill(8);
        expect((await store.get('k'))?.bytes).toEqual(bytes(1, 2, 3));
      }),
    );

    it(
      'refuses keys that are no paths',
      using(async (store) => {
        for (const key of ['', '/a', 'a/', 'a//b', '../a', 'a/../b', 'a/./b', '.hidden', 'a b', 'a\\b', 'a\0']) {
          expect(await kindOf((async () => store.put(key, bytes(1)))()), key).toBe('invalid');
        }
        expect(await store.list('')).toEqual([]);
      }),
    );

    it(
      'takes large objects and many small ones',
      using(async (store) => {
        const large = new Uint8Array(5 * 1024 * 1024).map((_, i) => i % 251);
        await store.put('large', large);
        const tail = await store.get('large', { start: large.length - 1000, end: large.length });
        expect(tail?.bytes).toEqual(large.subarray(large.length - 1000));
        await Promise.all(Array.from({ length: 50 }, (_, i) => store.put(`many/${i}/x`, bytes(i))));
        expect((await store.list('many/')).length).toBe(50);
        await Promise.all(Array.from({ length: 50 }, (_, i) => store.delete(`many/${i}/x`)));
        expect(await store.list('many/')).toEqual([]);
      }),
    );
  });
}
