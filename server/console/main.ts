/**
 * The console process: `node main.js -D REPOSITORY [--listen HOST:PORT] [--allow-origin ORIGIN]...`.
 *
 * Its life (pid file, readiness, signals) is process/run-process.ts; what it does is console-server.ts. It holds no data.
 */
import { mkdirSync } from 'node:fs';
import { messageOf } from '../../engine/errors.ts';
import { Repository } from '../control-plane/repository.ts';
import { createLog, type LogLevel } from '../process/log.ts';
import { packageVersion } from '../process/package-version.ts';
import { runProcess } from '../process/run-process.ts';
import { type ConsoleConfig, parseConsoleArgs } from './config.ts';
import { serveConsole } from './console-server.ts';

function readConfig(): ConsoleConfig {
  try {
    return parseConsoleArgs(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`console: ${messageOf(error)}\n`);
    return process.exit(2);
  }
}

const config = readConfig();
const repository = Repository.open(config.dir);
mkdirSync(repository.consoleDir, { recursive: true });
const log = createLog('console', { level: (process.env.PAGELITE_LOG_LEVEL || 'info') as LogLevel });
await runProcess('console', repository.consoleDir, log, async () => {
  const { listen, allowOrigins } = config;
  const server = await serveConsole({ repository, listen, allowOrigins, version: packageVersion, log });
  return { info: { port: server.port }, close: () => server.close() };
});
