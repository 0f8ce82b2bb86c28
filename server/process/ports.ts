/** Ports: listening with clear errors, and finding one that is free from a preferred one upwards. */
import { createServer, type Server } from 'node:net';
import { PageliteError } from '../../engine/errors.ts';

/** Listens and returns the port (which is chosen by the system for 0). Rejects `unavailable`, naming host and port. */
export function listen(server: Server, host: string, port: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const failed = (cause: NodeJS.ErrnoException) => {
      const why = cause.code === 'EADDRINUSE' ? 'the port is taken' : cause.message;
      reject(new PageliteError('unavailable', `cannot listen on ${host}:${port}: ${why}`, { host, port }, { cause }));
    };
    server.once('error', failed);
    server.listen(port, host, () => {
      server.off('error', failed);
      const address = server.address();
      resolve(typeof address === 'object' && address ? address.port : port);
    });
  });
}

/** How many ports above the preferred one are tried: enough for many repositories side by side on one machine. */
const portsTried = 1000;

/** The first port from `preferred` on that nobody listens on and that is not in `except`. */
export async function findFreePort(
  preferred: number,
  host = '127.0.0.1',
  except: ReadonlySet<number> = new Set(),
): Promise<number> {
  for (let port = preferred; port < Math.min(preferred + portsTried, 65536); port++) {
    if (!except.has(port) && (await isFree(host, port))) return port;
  }
  throw new PageliteError('unavailable', `no free port on ${host} from ${preferred} on`, { host, port: preferred });
}

/** A search for ports that are free now, of which none is found twice. */
export class FreePorts {
  readonly #host: string;
  readonly #given: Set<number>;

  /** `except`: those that somebody has who does not listen now. */
  constructor(host: string, except: Iterable<number> = []) {
    this.#host = host;
    this.#given = new Set(except);
  }

  async next(preferred: number): Promise<number> {
    const port = await findFreePort(preferred, this.#host, this.#given);
    this.#given.add(port);
    return port;
  }

  async pair(pg: number, http: number): Promise<{ pgPort: number; httpPort: number }> {
    return { pgPort: await this.next(pg), httpPort: await this.next(http) };
  }
}

async function isFree(host: string, port: number): Promise<boolean> {
  const server = createServer();
  try {
    await listen(server, host, port);
  } catch {
    return false;
  }
  await new Promise<void>((resolve) => server.close(() => resolve()));
  return true;
}
