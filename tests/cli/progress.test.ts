/** Progress on standard error: one line that is written over on a terminal, a line now and then in a log; time is an argument. */
import { expect, it } from 'vitest';
import { formatBytes, formatProgress, ProgressLine } from '../../server/cli/progress.ts';

const at = (done: number, text = 'Sending') => ({ text, done, total: 200 * 1024 * 1024, unit: 'bytes' as const });

function rig(isTTY: boolean) {
  let now = 0;
  const written: string[] = [];
  const line = new ProgressLine({ isTTY, write: (text) => written.push(text) }, () => now);
  return { line, written, wait: (ms: number) => (now += ms) };
}

it('on a terminal the line is written over, at most ten times a second, and goes in the end', () => {
  const { line, written, wait } = rig(true);
  line.tell(at(0));
  line.tell(at(1024));
  wait(100);
  line.tell(at(100 * 1024 * 1024));
  line.tell(at(0, 'New'));
  line.clear();
  expect(written).toEqual([
    '\rSending: 0 bytes of 200 MB, 0 %',
    '\rSending: 100 MB of 200 MB, 50 %',
    '\rNew: 0 bytes of 200 MB, 0 %    ',
    `\r${' '.repeat('New: 0 bytes of 200 MB, 0 %'.length)}\r`,
  ]);
});

it('in a log there is a line every five seconds, and none of what is done sooner', () => {
  const { line, written, wait } = rig(false);
  for (let i = 0; i < 110; i++, wait(100)) line.tell(at(i * 1024 * 1024));
  line.clear();
  expect(written).toEqual(['Sending: 50.0 MB of 200 MB, 25 %\n', 'Sending: 100 MB of 200 MB, 50 %\n']);
});

it('sizes are told as PostgreSQL tells them, and without a total there is no per cent', () => {
  expect([0, 1023, 1024, 1536 * 1024, 5 * 1024 ** 3].map(formatBytes)).toEqual([
    '0 bytes',
    '1023 bytes',
    '1 kB',
    '1.5 MB',
    '5.0 GB',
  ]);
  expect(formatProgress({ text: 'Recovering', done: 0, total: 0, unit: 'bytes' })).toBe('Recovering');
  expect(formatProgress({ text: 'Unpacking', done: 2048, total: 0, unit: 'bytes' })).toBe('Unpacking: 2 kB');
});
