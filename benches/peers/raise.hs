-- What GHC takes: throwTo into a thread that is blocked in an interruptible read of C, or on an MVar; timeout around nothing.
{-# LANGUAGE ForeignFunctionInterface, InterruptibleFFI, ScopedTypeVariables #-}
module Main (main) where

import Control.Concurrent
import Control.Exception
import Control.Monad
import Data.IORef
import Data.List (sort)
import Foreign hiding (void)
import Foreign.C.Types
import GHC.Clock (getMonotonicTimeNSec)
import System.Posix.Types (CSsize (..))
import System.Timeout (timeout)
import Text.Printf (printf)

foreign import ccall interruptible "read" c_read :: CInt -> Ptr Word8 -> CSize -> IO CSsize
foreign import ccall unsafe "pipe" c_pipe :: Ptr CInt -> IO CInt

data Out = Out deriving Show
instance Exception Out

tell :: String -> [Word64] -> IO ()
tell what samples = printf "%s\t%.2f\t%.2f\n" what (at 0.5) (at 0.99)
  where
    sorted = sort samples
    at :: Double -> Double
    at p = fromIntegral (sorted !! floor (fromIntegral (length sorted - 1) * p)) / 1000

latency :: String -> (IO () -> IO ThreadId) -> IO () -> IO ()
latency what fork block = do
  samples <- replicateM 1000 $ do
    about <- newEmptyMVar
    back <- newEmptyMVar
    target <- fork $ do
      putMVar about ()
      block `catch` \(_ :: Out) -> return ()
      getMonotonicTimeNSec >>= putMVar back
    takeMVar about
    threadDelay 300
    began <- getMonotonicTimeNSec
    throwTo target Out
    left <- takeMVar back
    return (left - began)
  tell what samples

main :: IO ()
main = do
  ends <- mallocBytes 8
  _ <- c_pipe ends
  reading <- peek ends
  room <- mallocBytes 1
  never <- newEmptyMVar :: IO (MVar ())
  latency "throwTo, OS thread in an interruptible read" forkOS (void (c_read reading room 1))
  latency "throwTo, green thread on an MVar" forkIO (takeMVar never)
  counter <- newIORef (0 :: Int)
  samples <- replicateM 2000 $ do
    began <- getMonotonicTimeNSec
    _ <- timeout 10000000 (modifyIORef' counter (+ 1))
    ended <- getMonotonicTimeNSec
    return (ended - began)
  tell "timeout around nothing" samples
