/**
 * A repository with its real processes, the real console server before it, and a real Chromium: what every scenario of a tab runs on.
 *
 * The console server runs in the test's process and is the one that a scenario stops and starts. A page is opened on the console server's origin, on
 * a page of somebody else's (another origin, isolated or not), and the tab's API is called in it: `await page.evaluate(...)` finds `lite`, an open Pagelite,
 * and the module as `pagelite`.
 *
 * Test traffic stays on loopback. Every browser is closed with the rig.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import type { isolatePage, OpenOptions, Pagelite, PageliteError } from '../../../browser/pagelite.ts';
import { type ConsoleServer, serveConsole } from '../../../server/console/console-server.ts';
import { Repository } from '../../../server/control-plane/repository.ts';
import { silentLog } from '../../../server/process/node-host.ts';
import { packageVersion } from '../../../server/process/package-version.ts';
import { listen } from '../../../server/process/ports.ts';
import { RepositoryRig } from '../../support/repository-rig.ts';
import { chromiumPath } from './chromium.ts';

const chromiumArgs = ['--no-sandbox', '--disable-quic', '--disable-background-networking'];
const localhost = '127.0.0.1';
/** Of a wait in a page: a machine with more to do than cores is slow, not wrong. */
const waitTimeoutMs = 100_000;

/** What a page of the rig has in its global scope. */
export interface TabGlobals {
  pagelite: { Pagelite: typeof Pagelite; PageliteError: typeof PageliteError; isolatePage: typeof isolatePage };
  lite: Pagelite;
}
declare global {
  var pagelite: TabGlobals['pagelite'];
  var lite: TabGlobals['lite'];
}

export interface TabOptions {
  /** Whose page: the console server's origin, or another one's with or without cross-origin isolation. */
  readonly page?: 'console' | 'isolated' | 'plain';
  /** Of Pagelite.open; the server's address is added unless `server` is null. */
  readonly open?: Omit<OpenOptions, 'server' | 'progress'> & { readonly server?: string | null };
}

export class WebRig {
  readonly repository: RepositoryRig;
  readonly #pages: Server;
  readonly #browsers = new Set<Browser>();
  readonly #profiles: string[] = [];
  #pagesPort = 0;
  #console: ConsoleServer | null = null;
  #consolePort = 0;
  #browser: Browser | null = null;
  /** Further documents of somebody's origin, by path. */
  readonly documents = new Map<string, string>();
  /** What pages wrote to their consoles, for a failure that needs explaining. */
  readonly lines: string[] = [];

  private constructor(repository: RepositoryRig) {
    this.repository = repository;
    this.#pages = somebodysPages(this.documents);
  }

  /** Storage processes, a tenant with branch `main`, the console server. */
  static async start(): Promise<WebRig> {
    const rig = new WebRig(new RepositoryRig());
    try {
      await rig.repository.start();
      rig.#pagesPort = await listen(rig.#pages, localhost, 0);
      await rig.startConsole();
      return rig;
    } catch (error) {
      await rig.close();
      throw error;
    }
  }

  get server(): string {
    return `http://${localhost}:${this.#consolePort}`;
  }

  /** Origin of pages that are not the server's. */
  get somebody(): string {
    return `http://${localhost}:${this.#pagesPort}`;
  }

  /** On the same port each time. */
  async startConsole(): Promise<void> {
    this.#console = await serveConsole({
      repository: Repository.open(this.repository.dir),
      listen: { host: localhost, port: this.#consolePort },
      allowOrigins: [],
      version: packageVersion,
      log: silentLog,
    });
    this.#consolePort = this.#console.port;
  }

  async stopConsole(): Promise<void> {
    await this.#console?.close();
    this.#console = null;
  }

  /** A context of the browser that the tests of one file share: storage of its own. */
  async context(): Promise<BrowserContext> {
    this.#browser ??= await this.#keep(chromium.launch({ executablePath: chromiumPath(), args: chromiumArgs }));
    const context = await this.#browser.newContext();
    context.setDefaultTimeout(waitTimeoutMs);
    return context;
  }

  /** A browser that a test may kill. */
  ownBrowser(): Promise<Browser> {
    return this.#keep(chromium.launch({ executablePath: chromiumPath(), args: chromiumArgs }));
  }

  /** A browser with a profile on disk, for what must outlive its process. `profile` from an earlier one opens it again. */
  async browser(profile: string = this.newProfile()): Promise<BrowserContext> {
    const context = await chromium.launchPersistentContext(profile, {
      executablePath: chromiumPath(),
      args: chromiumArgs,
    });
    const browser = context.browser();
    if (browser) this.#browsers.add(browser);
    return context;
  }

  /** SIGKILL to the browser and with it to all its pages: nothing gets to say goodbye. */
  async kill(context: BrowserContext): Promise<void> {
    const browser = context.browser()!;
    const session = await browser.newBrowserCDPSession();
    const { processInfo } = await session.send('SystemInfo.getProcessInfo');
    const gone = new Promise((resolve) => browser.once('disconnected', resolve));
    for (const { id } of processInfo) killIfThere(id);
    await gone;
    if (browser === this.#browser) this.#browser = null;
  }

  newProfile(): string {
    const profile = mkdtempSync(join(tmpdir(), 'pagelite-chromium-'));
    this.#profiles.push(profile);
    return profile;
  }

  /** A page with `lite`, open. */
  async tab(context: BrowserContext, options: TabOptions = {}): Promise<Page> {
    const page = await context.newPage();
    page.on('console', (message) => this.lines.push(`${message.type()}: ${message.text()}`));
    page.on('pageerror', (error) => this.lines.push(`pageerror: ${error.message}`));
    await page.goto(this.#urlOf(options.page ?? 'console'));
    await this.load(page, options);
    return page;
  }

  /** Again, after a reload. */
  async load(page: Page, { open = {} }: TabOptions = {}): Promise<void> {
    const server = open.server === undefined ? this.server : open.server;
    const settings = { ...open, ...(server === null ? { server: undefined } : { server }) };
    // As text: the test runner's transform replaces `import`.
    const script = JSON.stringify(`${this.server}/pagelite/pagelite.js`);
    await page.evaluate(`import(${script}).then((module) => { globalThis.pagelite = module; })`);
    await page.evaluate(async ({ server, ...rest }) => {
      globalThis.lite = await pagelite.Pagelite.open({ ...rest, ...(server !== undefined && { server }) });
    }, settings);
  }

  #urlOf(page: 'console' | 'isolated' | 'plain'): string {
    // Any document of the origin does.
    return page === 'console' ? `${this.server}/api/v1/status` : `${this.somebody}/${page}`;
  }

  async #keep(launching: Promise<Browser>): Promise<Browser> {
    const browser = await launching;
    this.#browsers.add(browser);
    return browser;
  }

  async close(): Promise<void> {
    for (const browser of this.#browsers) await browser.close().catch(() => {});
    await this.stopConsole();
    await new Promise((resolve) => this.#pages.close(resolve));
    await this.repository.close();
    for (const profile of this.#profiles) rmSync(profile, { recursive: true, force: true });
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended with its parent.
  }
}

/** Pages of another origin: `/isolated` and `/plain`. */
function somebodysPages(documents: ReadonlyMap<string, string>): Server {
  return createServer((request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    const isolated = pathname === '/isolated';
    response.writeHead(200, {
      'content-type': pathname.endsWith('.js') ? 'text/javascript' : 'text/html',
      ...(isolated && {
        'cross-origin-opener-policy': 'same-origin',
        'cross-origin-embedder-policy': 'require-corp',
      }),
    });
    response.end(documents.get(pathname) ?? '<!doctype html><meta charset="utf-8"><title>Somebody</title>');
  });
}
