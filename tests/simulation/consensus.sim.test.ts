/**
 * A few runs of the simulation (simulate.ts). `npm run sim -- --seeds 2000 --from 1` makes many.
 */
import { describe, expect, it } from 'vitest';
import { type Outcome, simulate } from './simulate.ts';

const firstSeed = Number(process.env.SIM_FIRST ?? 1);
const seedCount = Number(process.env.SIM_SEEDS ?? 30);

describe('under every fault at once', () => {
  const outcomes: Outcome[] = [];
  for (let seed = firstSeed; seed < firstSeed + seedCount; seed++) {
    it(`seed ${seed}`, async () => {
      const outcome = await simulate(seed);
      outcomes.push(outcome);
      expect(outcome.violations).toEqual([]);
    });
  }

  it('the runs were eventful', () => {
    const sum = (of: (outcome: Outcome) => number) => outcomes.reduce((total, outcome) => total + of(outcome), 0);
    expect(new Set(outcomes.map(({ safekeepers }) => safekeepers))).toEqual(new Set([1, 3, 5]));
    expect(sum(({ committed }) => committed)).toBeGreaterThan(20 * seedCount);
    expect(sum(({ elections }) => elections)).toBeGreaterThan(3 * seedCount);
    for (const of of [
      'fences',
      'tornWrites',
      'diskFailures',
      'staleRestores',
      'noticedOldDisks',
      'replacements',
      'recoveries',
    ] as const) {
      expect(
        sum((outcome) => outcome[of]),
        of,
      ).toBeGreaterThan(0);
    }
  });
});

it('the same seed ends in the same state', async () => {
  const first = await simulate(4711);
  expect(first.committed).toBeGreaterThan(0);
  expect(await simulate(4711)).toEqual(first);
});
