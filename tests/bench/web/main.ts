/**
 * `npm run bench:web`: what somebody waits for in a tab, in Chromium, against PGlite in the same browser. `--json` for machines, `--scale 0.1` for a
 * quick look.
 *
 * A cold opening has a browser and a profile of its own, so that nothing is cached, not even the code. PGlite has its data and its code in the profile
 * already. A warm opening is the page loaded again in its tab.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Command } from 'commander';
import { loadPGliteArtefacts } from '../../../server/process/pglite-artefacts.ts';
import { median, printRows, type Row, spread } from '../harness.ts';
import { RemoteRepository } from '../remote-compute.ts';
import { type BenchPages, serveBenchPages } from './bench-pages.ts';
import { ChromiumTab } from './chromium-tab.ts';

const rowsFull = 450_000;

interface Opened {
  readonly ms: number;
  readonly counters?: { readonly bytesFromServer: number; readonly fromTab: number; readonly fromServer: number };
}

interface Rates {
  readonly inserts: number;
  readonly selects: number;
}

const program = new Command('bench:web')
  .description('Measures Pagelite in a tab against PGlite in a tab, as ratios of medians in one run.')
  .option('--json', 'print the rows as JSON')
  .option('--only <names>', 'of: open, rates', (text) => text.split(','), ['open', 'rates'])
  .option('--rounds <n>', 'repetitions of each side', Number, 5)
  .option('--scale <x>', 'size of the data, 1 is full', Number, 1)
  .addHelpText('after', '\nExamples:\n  npm run bench:web\n  npm run bench:web -- --only rates --rounds 3')
  .parse();
const options = program.opts<{ json?: boolean; only: string[]; rounds: number; scale: number }>();
const folder = mkdtempSync(join(tmpdir(), 'pagelite-bench-web-'));
const say = (text: string) => process.stderr.write(`  ${text}\n`);
const ms = (value: number) => `${value.toFixed(0)} ms`;
let profiles = 0;
const newProfile = () => join(folder, `profile-${profiles++}`);

/** Runs one page in a browser that is started for it. */
async function inNewBrowser<T>(profile: string, work: (tab: ChromiumTab) => Promise<T>): Promise<T> {
  const tab = await ChromiumTab.open(profile);
  try {
    return await work(tab);
  } finally {
    await tab.close();
  }
}

async function openingRows(pages: BenchPages): Promise<Row[]> {
  const artefacts = await loadPGliteArtefacts();
  const rows = Math.round(rowsFull * options.scale);
  const load = `create table big(id int primary key, v text);
    insert into big select g, repeat(md5(g::text), 33) from generate_series(1, ${rows}) g`;
  const repository = RemoteRepository.start(join(folder, 'repository'));
  try {
    const writer = await repository.open(repository.main, artefacts, 64 * 1024 * 1024);
    await writer.pg.exec(load);
    const sizes = await writer.pg.query<{ mb: number }>(
      'select (pg_database_size(current_database()) / 1e6)::float8 as mb',
    );
    await writer.close();
    await repository.flush(repository.main);
    const size = `${sizes.rows[0]!.mb.toFixed(0)} MB`;
    say(`loaded ${size} into the repository`);
    const idbProfile = newProfile();
    const url = (page: string, query: Record<string, string>) =>
      `${pages.origin}/${page}?${new URLSearchParams(query)}`;
    await inNewBrowser(idbProfile, (tab) => tab.run(url('load.html', { dataDir: 'idb://bench', load })));
    say('loaded the same into PGlite in IndexedDB');

    const server = repository.consoleUrl;
    const [cold, idb, hybrid, warm]: [Opened[], Opened[], Opened[], Opened[]] = [[], [], [], []];
    const pglite = url('open.html', { what: 'pglite', dataDir: 'idb://bench' });
    // Its code is in the browser's cache from the first time on.
    await inNewBrowser(idbProfile, (tab) => tab.run(pglite));
    for (let round = 0; round < options.rounds; round++) {
      const remote = url('open.html', { what: 'remote', server, branch: 'main' });
      cold.push(await inNewBrowser(newProfile(), (tab) => tab.run<Opened>(remote)));
      idb.push(await inNewBrowser(idbProfile, (tab) => tab.run<Opened>(pglite)));
      const branch = { what: 'hybrid', server, branch: `mine${round}`, from: 'main' };
      const visits = [url('open.html', { ...branch, make: 'yes' }), url('open.html', branch)];
      const [first, again] = await inNewBrowser(newProfile(), (tab) => tab.runInTurn<Opened>(visits));
      hybrid.push(first!);
      warm.push(again!);
      say(
        `cold ${ms(cold[round]!.ms)}, PGlite ${ms(idb[round]!.ms)}, in the tab cold ${ms(hybrid[round]!.ms)}, warm ${ms(warm[round]!.ms)}`,
      );
    }
    const times = (all: readonly Opened[]) => all.map((one) => one.ms);
    const moved = (all: readonly Opened[]) =>
      `${(median(all.map(({ counters }) => counters?.bytesFromServer ?? 0)) / 1e6).toFixed(1)} MB`;
    return [
      {
        what: `navigation to first row, cold branch of ${size}`,
        measured: ms(median(times(cold))),
        against: 'PGlite idb:// with the same data',
        baseline: ms(median(times(idb))),
        ratio: median(times(cold)) / median(times(idb)),
        target: { op: '<=', bound: 0.2 },
        note: `${spread(times(cold))} and ${spread(times(idb))}; ${moved(cold)} of pages moved`,
      },
      {
        what: 'the same for a branch in the tab, loaded again',
        measured: ms(median(times(warm))),
        against: 'cold, made in the tab',
        baseline: ms(median(times(hybrid))),
        ratio: median(times(warm)) / median(times(hybrid)),
        target: { op: '<=', bound: 0.5 },
        note: `${spread(times(warm))} and ${spread(times(hybrid))}; ${moved(warm)} and ${moved(hybrid)} moved`,
      },
    ];
  } finally {
    repository.stop();
  }
}

async function rateRows(pages: BenchPages): Promise<Row[]> {
  const counts = {
    inserts: String(Math.max(20, Math.round(150 * options.scale))),
    selects: String(Math.max(200, Math.round(3000 * options.scale))),
    rows: '5000',
  };
  const page = (query: Record<string, string>) =>
    `${pages.origin}/rates.html?${new URLSearchParams({ ...query, ...counts })}`;
  const repository = RemoteRepository.start(join(folder, 'rates'));
  const sides = [
    page({ what: 'local', server: repository.consoleUrl }),
    page({ what: 'idb', dataDir: 'idb://rates' }),
    page({ what: 'opfs', dataDir: 'opfs-ahp://rates' }),
  ];
  const figures: Rates[][] = sides.map(() => []);
  try {
    await inNewBrowser(newProfile(), async (tab) => {
      for (let round = 0; round < options.rounds; round++) {
        for (const [side, url] of sides.entries()) figures[side]!.push(await tab.run<Rates>(url));
        const shown = figures.map((all) => `${all[round]!.inserts.toFixed(0)} and ${all[round]!.selects.toFixed(0)}`);
        say(`inserts and selects a second: here ${shown[0]}, idb ${shown[1]}, opfs ${shown[2]}`);
      }
    });
  } finally {
    repository.stop();
  }
  const of = (side: number, what: keyof Rates) => figures[side]!.map((one) => one[what]);
  const row = (what: keyof Rates, side: number, against: string, bound: number): Row => ({
    what: `${what} a second, local branch`,
    measured: `${median(of(0, what)).toFixed(0)}/s`,
    against,
    baseline: `${median(of(side, what)).toFixed(0)}/s`,
    ratio: median(of(0, what)) / median(of(side, what)),
    target: { op: '>=', bound },
    note: `${spread(of(0, what))} and ${spread(of(side, what))}`,
  });
  return [
    row('inserts', 1, 'PGlite idb://', 2),
    row('selects', 1, 'PGlite idb://', 0.9),
    row('inserts', 2, 'PGlite opfs-ahp:// (PGliteWorker)', 0.5),
    row('selects', 2, 'PGlite opfs-ahp:// (PGliteWorker)', 0.9),
  ];
}

const pages = await serveBenchPages();
const rows: Row[] = [];
try {
  if (options.only.includes('open')) rows.push(...(await openingRows(pages)));
  if (options.only.includes('rates')) rows.push(...(await rateRows(pages)));
} finally {
  pages.close();
  rmSync(folder, { recursive: true, force: true });
}
printRows(rows, options.json ?? false);
process.exit(0);
