#!/usr/bin/env node
/**
 * `pagelite`: neon_local's commands over the repository in `.pagelite` (or PAGELITE_REPO_DIR), and `pagelite dev`, everything in one process.
 *
 * Exit codes: 0 done, 1 refused or failed (the reason is on standard error), as the shell expects.
 */
import { runCli } from './program.ts';

// `pagelite ... | head`: who reads has had enough.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(0);
});
process.exitCode = await runCli(process.argv.slice(2), {
  out: (line) => process.stdout.write(`${line}\n`),
  err: (line) => process.stderr.write(`${line}\n`),
  env: process.env,
  progress: process.stderr,
});
