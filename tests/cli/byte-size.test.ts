/** Sizes as people write them: units of PostgreSQL; what is none, or no exact number, is refused. */
import { expect, it } from 'vitest';
import { parseByteSize } from '../../engine/model/byte-size.ts';

it.each([
  ['0', 0],
  ['8192', 8192],
  ['64kB', 65_536],
  ['500MB', 500 * 1024 ** 2],
  ['10 GB', 10 * 1024 ** 3],
  [' 2TB ', 2 * 1024 ** 4],
  ['7B', 7],
])('%s is %d bytes', (text, bytes) => expect(parseByteSize(text)).toBe(bytes));

it.each(['', 'GB', '1.5GB', '-1', '1 gb', '10PB', '9007199254740993', '99999TB', '1e6', '0x10'])(
  '%s is no size',
  (text) => expect(parseByteSize(text)).toBeNull(),
);
