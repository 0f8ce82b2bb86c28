/**
 * The pageserver process: `node main.js -D DIR [--id N] [--listen-pg HOST:PORT] [--listen-http HOST:PORT] [--safekeepers ID=HOST:PORT,...]`.
 *
 * Its life (pid file, readiness, signals) is process/run-process.ts; what it does is pageserver-server.ts.
 */
import { mkdirSync } from 'node:fs';
import { messageOf } from '../../engine/errors.ts';
import { createLog, type LogLevel } from '../process/log.ts';
import { runProcess } from '../process/run-process.ts';
import { type PageserverConfig, parsePageserverArgs } from './config.ts';
import { startPageserver } from './pageserver-server.ts';

function readConfig(): PageserverConfig {
  try {
    return parsePageserverArgs(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`pageserver: ${messageOf(error)}\n`);
    return process.exit(2);
  }
}

const config = readConfig();
mkdirSync(config.dir, { recursive: true });
const log = createLog('pageserver', { level: (process.env.PAGELITE_LOG_LEVEL || 'info') as LogLevel });
await runProcess('pageserver', config.dir, log, async (progress) => {
  const server = await startPageserver({ ...config, log, progress });
  return { info: { ...server.ports }, close: () => server.close() };
});
