/** Pages whose checksums are known, and others among them, make the same messages as pages that stand elsewhere, the first time and the next. */
import { expect, it } from 'vitest';
import type { PageHolder } from '../../engine/layers/value-chain.ts';
import { pageSize } from '../../engine/limits.ts';
import { answerPages } from '../../engine/protocol/answer-pages.ts';
import { decodeResponse, encodeResponse } from '../../engine/protocol/pagestream.ts';
import { SeededRandom } from '../support/seeded-random.ts';

it('pages are the same bytes on the wire, whatever is known of them', () => {
  const random = new SeededRandom(5);
  const resident = Array.from({ length: 8 }, () => ({
    bytes: Uint8Array.from({ length: pageSize }, () => random.below(256)),
    holder: random.chance(0.6) ? ({ pageChecksum: -1 } as PageHolder) : null,
  }));
  expect(new Set(resident.map(({ holder }) => holder === null)).size).toBe(2);
  for (let round = 0; round < 60; round++) {
    const count = 1 + random.below(6);
    const { pages, holders } = answerPages(count);
    for (let i = 0; i < count; i++) {
      // A page that does not exist stays as it is.
      if (random.chance(0.2)) continue;
      const { bytes, holder } = random.pick(resident);
      pages.set(bytes, i * pageSize);
      holders[i] = holder;
    }
    const elsewhere = pages.slice();
    const message = encodeResponse({ kind: 'pages', id: 7, bytes: pages });
    expect(Buffer.compare(message, encodeResponse({ kind: 'pages', id: 7, bytes: elsewhere }))).toBe(0);
    const response = decodeResponse(message);
    expect(response.kind === 'pages' && Buffer.compare(response.bytes, elsewhere)).toBe(0);
  }
  expect(resident.filter(({ holder }) => holder?.pageChecksum === -1)).toEqual([]);
});
