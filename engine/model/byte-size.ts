/** Sizes in bytes as people write them: a whole number, or one with PostgreSQL's units, which are powers of 1024: `500MB`, `10 GB`. */

const unitBytes: Readonly<Record<string, number>> = {
  '': 1,
  B: 1,
  kB: 1024,
  KB: 1024,
  MB: 1024 ** 2,
  GB: 1024 ** 3,
  TB: 1024 ** 4,
};

/** Null if the text is not such a size, or one that no number holds exactly. */
export function parseByteSize(text: string): number | null {
  const match = /^(\d+)\s*([kKMGT]?B?)$/.exec(text.trim());
  const unit = match === null ? undefined : unitBytes[match[2]!];
  if (unit === undefined) return null;
  const bytes = Number(match![1]) * unit;
  return Number.isSafeInteger(bytes) ? bytes : null;
}
