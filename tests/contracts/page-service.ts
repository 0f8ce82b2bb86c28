/**
 * What every PageService does, whichever side of a wire it is on (engine/services.ts). Each implementation's test calls this with a
 * fixture over a timeline whose content is known.
 *
 * Must hold: pages, sizes and keys are those of the LSN asked for; what does not exist is zeros, null or an empty list and never an error;
 * a read waits for `notModifiedSince` and for no more; errors have the kind that the seam names; an abort is heard; returned bytes are the caller's.
 */
import { describe, expect, it } from 'vitest';
import { type ErrorKind, PageliteError } from '../../engine/errors.ts';
import { keysPerRequestMax, pageSize, pagesPerRequestMax } from '../../engine/limits.ts';
import { controlFileKey, keyKind, keyPrefix, relPrefix } from '../../engine/model/key.ts';
import { type Lsn, maxLsn } from '../../engine/model/lsn.ts';
import type { BlockNumber, RelTag } from '../../engine/model/rel.ts';
import type { PageService } from '../../engine/services.ts';

export interface PageServiceFixture {
  readonly service: PageService;
  /** A main fork that exists at both LSNs, with at least 2 blocks at `earlier` and more at `later`; block 0 differs between them. */
  readonly rel: RelTag;
  readonly earlier: Lsn;
  readonly later: Lsn;
  readonly sizes: { readonly earlier: BlockNumber; readonly later: BlockNumber };
  /** The page as it was written, byte for byte. */
  expectedPage(lsn: Lsn, block: BlockNumber): Uint8Array;
  /** Ingests more, so that the last record LSN reaches `later + 8` at least. Called once. */
  advance(): Promise<void>;
  close(): Promise<void>;
}

/** As toEqual on pages is slow, and Buffer is Node's. */
function samePages(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

const zeroPage = new Uint8Array(pageSize);
const noSuchRel: RelTag = { spc: 1663, db: 5, rel: 99_999_999, fork: 0 };

async function expectKind(promise: Promise<unknown>, kind: ErrorKind): Promise<void> {
  const error = await promise.then(
    () => expect.fail(`resolved; ${kind} expected`),
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(PageliteError);
  expect((error as PageliteError).kind, (error as PageliteError).message).toBe(kind);
}

export function runPageServiceContract(name: string, setup: () => Promise<PageServiceFixture>): void {
  describe(`PageService: ${name}`, () => {
    /** Each test has its own fixture, and ends it. */
    const using = (body: (fixture: PageServiceFixture) => Promise<void>) => async () => {
      const fixture = await setup();
      try {
        await body(fixture);
      } finally {
        await fixture.close();
      }
    };
    const exactly = (lsn: Lsn) => ({ requestLsn: lsn, notModifiedSince: lsn });
    const latest = { requestLsn: maxLsn, notModifiedSince: 0 as Lsn };

    it(
      'reads the pages of the LSN asked for',
      using(async ({ service, rel, earlier, later, sizes, expectedPage }) => {
        expect(sizes.earlier).toBeGreaterThanOrEqual(2);
        expect(sizes.later).toBeGreaterThan(sizes.earlier);
        expect(expectedPage(earlier, 0)).not.toEqual(expectedPage(later, 0));
        for (const [lsn, size] of [
          [later, sizes.later],
          [earlier, sizes.earlier],
        ] as const) {
          for (let block = 0; block < size; block++) {
            const page = await service.getPages(exactly(lsn), rel, block, 1);
            expect(samePages(page, expectedPage(lsn, block)), `block ${block}`).toBe(true);
          }
        }
      }),
    );

    it(
      'reads many pages at once, with zeros past the end',
      using(async ({ service, rel, later, sizes, expectedPage }) => {
        const count = Math.min(pagesPerRequestMax, sizes.later + 2);
        const pages = await service.getPages(exactly(later), rel, 0, count);
        expect(pages.length).toBe(count * pageSize);
        for (let block = 0; block < count; block++) {
          const expected = block < sizes.later ? expectedPage(later, block) : zeroPage;
          const page = pages.subarray(block * pageSize, (block + 1) * pageSize);
          expect(samePages(page, expected), `block ${block}`).toBe(true);
        }
        const far = await service.getPages(exactly(later), rel, 0xfffffffe, 1);
        expect(samePages(far, zeroPage)).toBe(true);
      }),
    );

    it(
      'a relation that grew later is shorter earlier',
      using(async ({ service, rel, earlier, later, sizes }) => {
        expect(await service.getRelSize(exactly(earlier), rel)).toBe(sizes.earlier);
        expect(await service.getRelSize(exactly(later), rel)).toBe(sizes.later);
        expect(await service.getRelSize(latest, rel)).toBe(sizes.later);
        const page = await service.getPages(exactly(earlier), rel, sizes.earlier, 1);
        expect(samePages(page, zeroPage)).toBe(true);
      }),
    );

    it(
      'what does not exist is zeros, null or empty',
      using(async ({ service, later }) => {
        expect(await service.getRelSize(exactly(later), noSuchRel)).toBeNull();
        const pages = await service.getPages(exactly(later), noSuchRel, 7, 2);
        expect(pages.length).toBe(2 * pageSize);
        expect(pages.every((byte) => byte === 0)).toBe(true);
        expect(await service.listRels(exactly(later), 1663, 4_000_000)).toEqual([]);
        const prefix = keyPrefix(keyKind.twoPhase, 0, 1, 77, 0);
        expect(await service.getImages(exactly(later), [{ prefix, block: 1 }])).toEqual([null]);
      }),
    );

    it(
      'lists the relation forks of a database in key order with their sizes',
      using(async ({ service, rel, earlier, later, sizes }) => {
        for (const [lsn, size] of [
          [earlier, sizes.earlier],
          [later, sizes.later],
        ] as const) {
          const rels = await service.listRels(exactly(lsn), rel.spc, rel.db);
          expect(rels.find((entry) => entry.rel.rel === rel.rel && entry.rel.fork === rel.fork)).toEqual({ rel, size });
          const order = rels.map((entry) => entry.rel.rel * 4 + entry.rel.fork);
          expect(order).toEqual([...order].sort((a, b) => a - b));
        }
      }),
    );

    it(
      'gives the images of any keys in the order asked',
      using(async ({ service, rel, later, expectedPage }) => {
        const prefix = relPrefix(rel);
        const missing = { prefix: keyPrefix(keyKind.twoPhase, 0, 1, 77, 0), block: 1 };
        const keys = [{ prefix, block: 1 }, missing, controlFileKey, { prefix, block: 0 }];
        const images = await service.getImages(exactly(later), keys);
        expect(images.length).toBe(4);
        expect(samePages(images[0]!, expectedPage(later, 1))).toBe(true);
        expect(images[1]).toBeNull();
        expect(images[2]?.length).toBeGreaterThan(0);
        expect(samePages(images[3]!, expectedPage(later, 0))).toBe(true);
        expect(await service.getImages(exactly(later), [])).toEqual([]);
      }),
    );

    it(
      'what it returns belongs to the caller',
      using(async ({ service, rel, later, expectedPage }) => {
        const page = await service.getPages(exactly(later), rel, 0, 1);
        page.fill(0xee);
        const [image] = await service.getImages(exactly(later), [{ prefix: relPrefix(rel), block: 0 }]);
        image!.fill(0xdd);
        const again = await service.getPages(exactly(later), rel, 0, 1);
        expect(samePages(again, expectedPage(later, 0))).toBe(true);
      }),
    );

    it(
      'waits for notModifiedSince, and for no more',
      using(async ({ service, rel, earlier, later, sizes, expectedPage, advance }) => {
        const ahead = (later + 8) as Lsn;
        // Not modified since `earlier`: any later LSN may be asked for without waiting for it.
        const early = await service.getPages(
          { requestLsn: (ahead + 2 ** 40) as Lsn, notModifiedSince: earlier },
          rel,
          1,
          1,
        );
        expect(early.length).toBe(pageSize);
        let done = false;
        const waiting = service.getRelSize({ requestLsn: ahead, notModifiedSince: ahead }, rel).then((size) => {
          done = true;
          return size;
        });
        // Other reads go on meanwhile.
        const page = await service.getPages(exactly(later), rel, 0, 1);
        expect(samePages(page, expectedPage(later, 0))).toBe(true);
        expect(done).toBe(false);
        await advance();
        expect(await waiting).toBeGreaterThanOrEqual(sizes.later);
      }),
    );

    it(
      'an abort ends a wait, and an aborted signal asks nothing',
      using(async ({ service, rel, later }) => {
        const abort = new AbortController();
        const ahead = (later + 8) as Lsn;
        const waiting = service.getPages(exactly(ahead), rel, 0, 1, abort.signal);
        const also = service.getRelSize(exactly(ahead), rel, abort.signal);
        await service.getRelSize(exactly(later), rel);
        abort.abort();
        await expectKind(waiting, 'cancelled');
        await expectKind(also, 'cancelled');
        await expectKind(service.getStatus(abort.signal), 'cancelled');
        expect(await service.getRelSize(exactly(later), rel)).not.toBeNull();
      }),
    );

    it(
      'refuses an LSN before the start, and too few or too many blocks or keys',
      using(async ({ service, rel, later }) => {
        const { startLsn } = await service.getStatus();
        await expectKind(service.getPages(exactly((startLsn - 8) as Lsn), rel, 0, 1), 'invalid');
        await expectKind(service.getPages(exactly(later), rel, 0, 0), 'invalid');
        await expectKind(service.getPages(exactly(later), rel, 0, pagesPerRequestMax + 1), 'invalid');
        const keys = Array.from({ length: keysPerRequestMax + 1 }, (_, block) => ({ prefix: relPrefix(rel), block }));
        await expectKind(service.getImages(exactly(later), keys), 'invalid');
      }),
    );

    it(
      'says where it stands',
      using(async ({ service, earlier, later, advance }) => {
        const status = await service.getStatus();
        expect(status.startLsn).toBeLessThanOrEqual(earlier);
        expect(status.lastRecordLsn).toBeGreaterThanOrEqual(later);
        expect(status.diskConsistentLsn).toBeLessThanOrEqual(status.lastRecordLsn);
        expect(status.stopped).toBeNull();
        await advance();
        expect((await service.getStatus()).lastRecordLsn).toBeGreaterThan(later);
      }),
    );

    it(
      'gives a basebackup at an LSN and at the latest',
      using(async ({ service, earlier, later }) => {
        const past = await service.getBasebackup(earlier);
        expect(past.lsn).toBe(earlier);
        const now = await service.getBasebackup(null);
        expect(now.lsn).toBeGreaterThanOrEqual(later);
        for (const backup of [past, now]) {
          const control = backup.files.find((file) => file.path === 'global/pg_control');
          expect(control?.bytes?.length).toBeGreaterThan(0);
          expect(backup.systemIdentifier).toBeGreaterThan(0n);
        }
      }),
    );

    it(
      'answers many requests at once, each with its own answer',
      using(async ({ service, rel, later, sizes, expectedPage }) => {
        const blocks = Array.from({ length: 600 }, (_, i) => (i * 7) % (sizes.later + 1));
        const pages = await Promise.all(blocks.map((block) => service.getPages(exactly(later), rel, block, 1)));
        for (const [i, block] of blocks.entries()) {
          const expected = block < sizes.later ? expectedPage(later, block) : zeroPage;
          expect(samePages(pages[i]!, expected), `request ${i}`).toBe(true);
        }
      }),
    );
  });
}
