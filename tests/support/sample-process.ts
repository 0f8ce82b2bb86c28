/**
 * A process made of nothing but process/run-process.ts, for the tests of what starts and stops processes.
 *
 *   node sample-process.js <dir> serve | fail | crash | hang | ignore-term
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { PageliteError } from '../../engine/errors.ts';
import { createLog } from '../../server/process/log.ts';
import { runProcess } from '../../server/process/run-process.ts';

const [dir = '.', mode = 'serve'] = process.argv.slice(2);
const keepAlive = setInterval(() => {}, 1000);
const log = createLog('sample');

await runProcess('sample', dir, log, async (progress) => {
  progress('half way');
  if (mode === 'fail') throw new PageliteError('corrupt', 'the index is damaged', { file: 'index' });
  if (mode === 'crash') {
    log.info('about to crash');
    process.kill(process.pid, 'SIGSEGV');
  }
  if (mode === 'hang') await sleep(1_000_000);
  return {
    info: { port: 4711 },
    close: async () => {
      if (mode === 'ignore-term') await sleep(1_000_000);
      clearInterval(keepAlive);
    },
  };
});
