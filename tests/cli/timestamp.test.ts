/** Times as people and PostgreSQL write them are read to the microsecond; anything else is refused, not guessed. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { formatTimestamp, parseTimestamp } from '../../engine/model/timestamp.ts';

const noon = Date.UTC(2026, 0, 31, 12);

describe('a timestamp', () => {
  it.each([
    ['2026-01-31T12:00:00Z', noon],
    ['2026-01-31 12:00:00Z', noon],
    ['2026-01-31 12:00:00+00', noon],
    ['2026-01-31 14:00:00+02', noon],
    ['2026-01-31 14:00+02:00', noon],
    ['2026-01-31 06:30:00-0530', noon],
    ['2026-01-31T12:00:00.5Z', noon + 500],
    ['2026-01-31 12:00:00.123456+00', noon + 123.456],
    ['2026-01-31 12:00:00', new Date(2026, 0, 31, 12).getTime()],
    ['2026-01-31', new Date(2026, 0, 31).getTime()],
  ])('%s is read', (text, ms) => {
    expect(parseTimestamp(text)).toBeCloseTo(ms, 3);
  });

  it.each(['', 'yesterday', '2026-13-01', '2026-02-30 12:00', '12:00', '2026-01-31 25:00Z', '0/16B5A50', '1769860800'])(
    '"%s" is refused',
    (text) => {
      expect(() => parseTimestamp(text)).toThrow(/malformed timestamp/);
    },
  );

  it('survives being written and read', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 4e15 }), (micros) => {
        expect(Math.round(parseTimestamp(formatTimestamp(micros / 1000)) * 1000)).toBe(micros);
      }),
    );
  });
});
