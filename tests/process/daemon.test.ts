/**
 * Starting and stopping processes, with real ones (tests/support/sample-process.ts from the build).
 *
 * Must hold: a start that succeeds gives pid and ports; one that fails says why, with the process's own reason or its last log lines; only one
 * process runs in a folder, and a pid file of one that is gone is no obstacle; a stop waits until the process is gone.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { type DaemonOptions, startDaemon, stopDaemon } from '../../server/process/daemon.ts';
import { claimPidFile, runningPid } from '../../server/process/pid-file.ts';
import { findFreePort, listen } from '../../server/process/ports.ts';

const entry = pathToFileURL(resolve(import.meta.dirname, '../../dist/tests/support/sample-process.js'));

let dir: string;
const pidFile = () => join(dir, 'sample.pid');
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'pagelite-process-'));
});
afterEach(async () => {
  await stopDaemon('sample', pidFile(), 'immediate');
  rmSync(dir, { recursive: true });
});

function start(mode: string, more: Partial<DaemonOptions> = {}) {
  return startDaemon({ name: 'sample', entry, args: [dir, mode], logFile: join(dir, 'sample.log'), ...more });
}

describe('a daemon', () => {
  it('starts, says its ports, and stops', async () => {
    const progress: string[] = [];
    const { pid, info } = await start('serve', { onProgress: (text) => progress.push(text) });
    expect(info).toEqual({ port: 4711 });
    expect(progress).toEqual(['half way']);
    expect(runningPid(pidFile())).toBe(pid);
    expect(await stopDaemon('sample', pidFile())).toBe(true);
    expect(existsSync(pidFile())).toBe(false);
    expect(readFileSync(join(dir, 'sample.log'), 'utf8')).toContain('sample has stopped');
    expect(await stopDaemon('sample', pidFile())).toBe(false);
  });

  it('runs once in a folder', async () => {
    const { pid } = await start('serve');
    const again = await start('serve').catch((error: unknown) => error);
    expect(again).toMatchObject({
      kind: 'invalid',
      message: expect.stringContaining(`already running with pid ${pid}`),
    });
    expect(runningPid(pidFile())).toBe(pid);
  });

  it('that fails to start gives its reason with kind and data', async () => {
    await expect(start('fail')).rejects.toMatchObject({
      kind: 'corrupt',
      message: 'sample did not start: the index is damaged',
      data: { file: 'index', log: join(dir, 'sample.log') },
    });
    expect(existsSync(pidFile())).toBe(false);
  });

  it('that crashes while it starts leaves its last log lines in the error, and the next start works', async () => {
    const error = await start('crash').catch((e: unknown) => e);
    expect(error).toMatchObject({
      kind: 'unavailable',
      message: expect.stringMatching(/killed by SIG[\s\S]*about to crash/),
    });
    expect(existsSync(pidFile())).toBe(true);
    expect(runningPid(pidFile())).toBeNull();
    await start('serve');
    expect(await stopDaemon('sample', pidFile())).toBe(true);
  });

  it('that hangs while it starts is given up and killed', async () => {
    await expect(start('hang', { startTimeoutMs: 300 })).rejects.toThrow(/no sign of life for 300 ms/);
    expect(runningPid(pidFile())).toBeNull();
  });

  it('that does not close in time is stopped by --mode immediate', async () => {
    await start('ignore-term');
    await expect(stopDaemon('sample', pidFile(), 'fast', 100)).rejects.toThrow(/--mode immediate/);
    expect(await stopDaemon('sample', pidFile(), 'immediate')).toBe(true);
    expect(existsSync(pidFile())).toBe(false);
  });
});

describe('a pid file', () => {
  it('of a pid that another process has now is stale', async () => {
    const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
    await once(child, 'spawn');
    // The child's pid with a start time that is not the child's.
    writeFileSync(pidFile(), `${child.pid} 12345 ${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8')}`);
    expect(runningPid(pidFile())).toBeNull();
    const mine = claimPidFile(pidFile());
    expect(runningPid(pidFile())).toBe(process.pid);
    mine.release();
    expect(existsSync(pidFile())).toBe(false);
    child.kill('SIGKILL');
  });

  it('with garbage in it is stale, and is not removed by one who does not own it', () => {
    writeFileSync(pidFile(), 'garbage');
    const mine = claimPidFile(pidFile());
    writeFileSync(pidFile(), '1 2 3\n');
    mine.release();
    expect(existsSync(pidFile())).toBe(true);
    rmSync(pidFile());
  });
});

describe('ports', () => {
  it('move on when taken, and a taken one is named in the error', async () => {
    const server = createServer();
    const port = await listen(server, '127.0.0.1', 0);
    expect(await findFreePort(port)).toBeGreaterThan(port);
    expect(await findFreePort(port, '127.0.0.1', new Set([port + 1]))).toBeGreaterThan(port + 1);
    await expect(listen(createServer(), '127.0.0.1', port)).rejects.toThrow(`127.0.0.1:${port}: the port is taken`);
    server.close();
  });
});
