/** The command line itself: version, help, usage errors; no repository is touched. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { runCli } from '../../server/cli/program.ts';

async function run(...args: string[]) {
  let [out, err] = ['', ''];
  const code = await runCli(args, {
    out: (line) => {
      out += `${line}\n`;
    },
    err: (line) => {
      err += `${line}\n`;
    },
    env: { PAGELITE_REPO_DIR: '/nonexistent/pagelite' },
  });
  return { code, out, err };
}

describe('pagelite', () => {
  it('has the version of the package', async () => {
    const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8'));
    expect(await run('--version')).toEqual({ code: 0, out: `${version}\n`, err: '' });
  });

  const commands = [
    'dev',
    'init',
    'start',
    'stop',
    'tenant create',
    'tenant list',
    'tenant set-default',
    'timeline list',
    'timeline branch',
    'timeline create',
    'endpoint create',
    'endpoint start',
    'endpoint stop',
    'endpoint list',
    'pageserver',
    'safekeeper',
  ];
  it.each(commands)('%s --help has examples', async (command) => {
    const { code, out, err } = await run(...command.split(' '), '--help');
    expect({ code, err }).toEqual({ code: 0, err: '' });
    expect(out).toContain(`Usage: pagelite ${command}`);
    expect(out).toMatch(new RegExp(`\\$ (PAGELITE_REPO_DIR=\\S+ )?pagelite ${command}`));
  });

  it('without a command shows its help and fails', async () => {
    const { code, err } = await run();
    expect(code).toBe(1);
    expect(err).toContain('Usage: pagelite [options] [command]');
  });

  it('suggests what was meant', async () => {
    expect(await run('tenant', 'creat')).toMatchObject({
      code: 1,
      err: expect.stringMatching(/Did you mean create\?/),
    });
    expect(await run('endpoint', 'list', '--jsn')).toMatchObject({ code: 1, err: expect.stringMatching(/--json/) });
  });

  it('says how to make a repository where there is none', async () => {
    expect(await run('timeline', 'list')).toMatchObject({
      code: 1,
      out: '',
      err: expect.stringMatching(
        /^error: there is no repository in \/nonexistent\/pagelite\. Make one with: pagelite init/,
      ),
    });
  });
});
