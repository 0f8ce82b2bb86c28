/**
 * The safekeeper process: arguments to Safekeeper to ports. `node dist/server/safekeeper/main.js -D DIR`; see config.ts for the flags.
 *
 * Its pid file is DIR/safekeeper.pid, its log goes to standard error as JSON lines. SIGTERM and SIGINT stop it cleanly; killed at any
 * moment it has what it acknowledged.
 */
import { mkdirSync } from 'node:fs';
import { pino } from 'pino';
import { messageOf } from '../../engine/errors.ts';
import { tokenFile } from '../auth/tokens.ts';
import { createLog } from '../process/log.ts';
import { runProcess } from '../process/run-process.ts';
import { parseSafekeeperArgs, type SafekeeperConfig } from './config.ts';
import { startSafekeeper } from './safekeeper-server.ts';

const log = createLog('safekeeper', { destination: pino.destination({ fd: 2, sync: true }) });

let config: SafekeeperConfig;
try {
  config = parseSafekeeperArgs(process.argv.slice(2));
  mkdirSync(config.dir, { recursive: true });
} catch (error) {
  log.error('cannot start', { error: messageOf(error) });
  process.exit(1);
}

await runProcess('safekeeper', config.dir, log, async () => {
  const server = await startSafekeeper({ ...config, token: tokenFile(config.tokenPath ?? null), log });
  return { info: { listen: server.ports.listen, http: server.ports.http }, close: () => server.close() };
});
