/**
 * Errors that go to a client while reads fail get the reason as their DETAIL, however the backend cuts its bytes; everything else passes as it is, in order.
 *
 * Attacked with random messages cut at random places; the seed is in every message.
 */
import { expect, it } from 'vitest';
import { ErrorDetails } from '../../server/compute/error-details.ts';
import { errorResponse, message } from '../../server/compute/pg-frames.ts';
import { SeededRandom } from '../support/seeded-random.ts';

it('errors of failed reads have their reason, other bytes are what they were', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = new SeededRandom(seed);
    const fields = { severity: 'ERROR', code: '58030', message: `I/O error ${seed}` } as const;
    const detail = 'layer x is damaged';
    let reason: string | null = null;
    const got: Buffer[] = [];
    const details = new ErrorDetails(
      () => reason,
      (bytes, start, end) => got.push(Buffer.from(bytes.subarray(start, end))),
    );
    const expected: Buffer[] = [];
    for (let command = 0; command < 5; command++) {
      reason = random.chance(0.5) ? detail : null;
      const sent: Buffer[] = [];
      for (let i = random.below(5); i > 0; i--) {
        if (random.chance(0.3)) {
          sent.push(errorResponse(fields));
          expected.push(errorResponse(reason === null ? fields : { ...fields, detail }));
        } else {
          const row = message('D', Buffer.alloc(random.below(random.pick([3, 40, 20_000])), 'E'));
          sent.push(row);
          expected.push(row);
        }
      }
      const all = Buffer.concat(sent);
      for (let at = 0; at < all.length; ) {
        const end = Math.min(all.length, at + 1 + random.below(random.pick([3, 100, 8192])));
        // Used again, as the backend's buffer is.
        const memory = Buffer.concat([Buffer.alloc(at % 7), all.subarray(at, end)]);
        details.push(memory, at % 7, memory.length);
        memory.fill(0);
        at = end;
      }
    }
    expect(Buffer.compare(Buffer.concat(got), Buffer.concat(expected)), `seed ${seed}`).toBe(0);
  }
});
