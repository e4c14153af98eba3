// A camera that is not there (LD_PRELOAD): to the process it is loaded into, $FAKE_CAMERA is a V4L2 device which shows
// the frames of the file $FAKE_CAMERA_FRAMES (packed YUYV, one after another, over and over), 25 in a second.
// Everything of the driver's interface that FFmpeg asks for is answered; the pixels lie in a memory file, as real ones
// lie in the driver's memory.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BUFFERS = 4, RATE = 25 };
static int device = -1, frames = -1;
static unsigned width, height, shown, first, waiting, queue[BUFFERS];

static size_t frame_size(void) { return (size_t)width * height * 2; }
static size_t room(void) { return (frame_size() + 65535) / 65536 * 65536; }  // whole pages: each buffer is mapped

static int open_camera(void) {
  width = atoi(getenv("FAKE_CAMERA_WIDTH"));
  height = atoi(getenv("FAKE_CAMERA_HEIGHT"));
  int (*next)(const char*, int, ...) = dlsym(RTLD_NEXT, "open");
  frames = next(getenv("FAKE_CAMERA_FRAMES"), O_RDONLY);
  device = memfd_create("camera", 0);
  if (frames < 0 || device < 0 || ftruncate(device, BUFFERS * room())) return -1;
  return device;
}

#define OPEN(name)                                                                                  \
  int name(const char* path, int flags, ...) {                                                      \
    va_list rest;                                                                                   \
    va_start(rest, flags);                                                                          \
    const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                 \
    va_end(rest);                                                                                   \
    const char* camera = getenv("FAKE_CAMERA");                                                     \
    if (camera && !strcmp(path, camera)) return open_camera();                                      \
    return ((int (*)(const char*, int, ...))dlsym(RTLD_NEXT, #name))(path, flags, mode);            \
  }
OPEN(open)
OPEN(open64)

static void describe(struct v4l2_format* format) {
  format->fmt.pix = (struct v4l2_pix_format){.width = width,
                                             .height = height,
                                             .pixelformat = V4L2_PIX_FMT_YUYV,
                                             .field = V4L2_FIELD_NONE,
                                             .bytesperline = width * 2,
                                             .sizeimage = frame_size()};
}

static void describe_buffer(struct v4l2_buffer* buffer) {
  buffer->length = frame_size();
  buffer->m.offset = buffer->index * room();
}

static int show(struct v4l2_buffer* buffer) {
  if (!waiting) return errno = EAGAIN, -1;
  usleep(1000000 / RATE);
  buffer->index = queue[first];
  first = (first + 1) % BUFFERS, waiting--;
  describe_buffer(buffer);
  unsigned char* pixels = mmap(NULL, frame_size(), PROT_READ | PROT_WRITE, MAP_SHARED, device, buffer->m.offset);
  const off_t count = lseek(frames, 0, SEEK_END) / frame_size();
  const ssize_t read = pread(frames, pixels, frame_size(), (off_t)(shown % count) * frame_size());
  munmap(pixels, frame_size());
  buffer->bytesused = read;
  buffer->sequence = shown;
  buffer->timestamp = (struct timeval){.tv_sec = shown / RATE, .tv_usec = shown % RATE * (1000000 / RATE)};
  shown++;
  return 0;
}

static int answer(unsigned long request, void* argument) {
  switch (request) {
    case VIDIOC_QUERYCAP: {
      struct v4l2_capability* capability = argument;
      memset(capability, 0, sizeof *capability);
      snprintf((char*)capability->driver, sizeof capability->driver, "fake");
      capability->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
      return 0;
    }
    case VIDIOC_G_INPUT: return *(int*)argument = 0;
    case VIDIOC_ENUMINPUT: return ((struct v4l2_input*)argument)->std = 0;
    case VIDIOC_ENUM_FMT: {
      struct v4l2_fmtdesc* format = argument;
      if (format->index) return errno = EINVAL, -1;
      format->pixelformat = V4L2_PIX_FMT_YUYV;
      return 0;
    }
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
    case VIDIOC_TRY_FMT: return describe(argument), 0;
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: {
      struct v4l2_captureparm* capture = &((struct v4l2_streamparm*)argument)->parm.capture;
      capture->capability = V4L2_CAP_TIMEPERFRAME;
      capture->timeperframe = (struct v4l2_fract){1, RATE};
      return 0;
    }
    case VIDIOC_REQBUFS: return ((struct v4l2_requestbuffers*)argument)->count = BUFFERS, 0;
    case VIDIOC_QUERYBUF: return describe_buffer(argument), 0;
    case VIDIOC_QBUF: return queue[(first + waiting++) % BUFFERS] = ((struct v4l2_buffer*)argument)->index, 0;
    case VIDIOC_DQBUF: return show(argument);
    case VIDIOC_STREAMON:
    case VIDIOC_STREAMOFF: return 0;
    default: return errno = ENOTTY, -1;
  }
}

int ioctl(int fd, unsigned long request, ...) {
  va_list rest;
  va_start(rest, request);
  void* argument = va_arg(rest, void*);
  va_end(rest);
  if (fd >= 0 && fd == device) return answer(request & 0xffffffff, argument);
  return ((int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl"))(fd, request, argument);
}
